// Cuts panels into reads, and packs what was read.
#include "src/io/weight_chunks.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

std::size_t file_row_bytes(const group_tensor& t) {
  return row_bytes(t.source.type, t.source.columns);
}

std::size_t smallest_chunk(const group_tensor& t) {
  return t.is_vector() ? t.source.bytes : file_row_bytes(t) * std::min(panel_rows, t.source.rows);
}

} // namespace

std::size_t buffer_bytes_for(const llama_layout& layout, std::size_t wanted) {
  std::size_t bytes = wanted;
  for (const auto& group : layout.groups)
    for (const auto& t : group.tensors)
      bytes = std::max(bytes, smallest_chunk(t));
  return bytes;
}

std::vector<weight_chunk> cut_group(const weight_group_layout& group, std::size_t buffer_bytes) {
  std::vector<weight_chunk> out;
  for (std::size_t i = 0; i < group.tensors.size(); ++i) {
    const auto& t = group.tensors[i];
    if (t.is_vector()) {
      out.push_back({i, 0, 1, t.source.file, t.source.offset, t.source.bytes});
      continue;
    }
    const std::size_t row = file_row_bytes(t);
    const std::size_t per_chunk = std::max<std::size_t>(1, buffer_bytes / (row * panel_rows));
    for (std::size_t first = 0; first < t.layout.panels(); first += per_chunk) {
      const std::size_t last = std::min(first + per_chunk, t.layout.panels());
      const std::size_t first_row = first * panel_rows;
      const std::size_t rows = std::min(last * panel_rows, t.source.rows) - first_row;
      out.push_back({i, first, last, t.source.file, t.source.offset + first_row * row, rows * row});
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const weight_chunk& a, const weight_chunk& b) {
    return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
  });
  return out;
}

std::string pack_chunk(const weight_group_layout& group, const weight_chunk& chunk, std::span<const std::byte> bytes,
                       std::byte* group_memory) {
  const auto& t = group.tensors[chunk.tensor];
  if (!blocks_are_finite(t.source.type, bytes))
    return fmt::format("tensor {} has a value or scale that is not finite between its rows {} and {}", t.source.name,
                       chunk.first * panel_rows,
                       t.is_vector() ? t.source.rows : std::min(chunk.last * panel_rows, t.source.rows));
  if (t.is_vector())
    dequantise(t.source.type, bytes, {reinterpret_cast<float*>(group_memory + t.offset), t.source.columns});
  else
    pack_panels(t.layout, chunk.first, chunk.last, bytes, group_memory + t.offset);
  return {};
}

} // namespace tropilla
