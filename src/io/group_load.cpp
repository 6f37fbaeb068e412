// Cuts groups into reads, and gives reads their tags.
#include "src/io/group_load.hpp"

#include <algorithm>
#include <cstring>

namespace tropilla {

std::size_t tag_for(std::vector<read_in_flight>& reads, const read_in_flight& r) {
  const auto free = std::ranges::find(reads, nullptr, &read_in_flight::of);
  if (free == reads.end()) {
    reads.push_back(r);
    return reads.size() - 1;
  }
  *free = r;
  return static_cast<std::size_t>(free - reads.begin());
}

std::vector<chunk_read> cut_packed(const packed_file& entry, const weight_group_layout& group, std::byte* memory,
                                   std::size_t read_bytes) {
  // The file has bytes up to the next multiple, and so has the destination.
  const std::uint64_t begin = entry.offset(group.section) + group.section_offset;
  const std::size_t bytes = to_group_alignment(group.bytes);
  const auto block = static_cast<std::size_t>(entry.section(group.section).block_bytes);
  const std::size_t max_bytes = std::max<std::size_t>(1, read_bytes / block) * block; // whole blocks can be compared
  std::vector<chunk_read> reads;
  for (std::size_t at = 0; at < bytes; at += max_bytes)
    reads.push_back({{0, 0, 0, 0, begin + at, std::min(max_bytes, bytes - at)}, memory + at});
  return reads;
}

std::vector<chunk_read> cut_model(const weight_group_layout& group, std::byte* memory, std::size_t buffer_bytes) {
  std::vector<chunk_read> reads;
  for (const auto& c : cut_group(group, buffer_bytes - 2 * group_alignment))
    reads.push_back({c, nullptr});
  // Bytes between tensors reach packed files, so they must not be what was in memory before.
  std::size_t end = 0;
  for (const auto& t : group.tensors) {
    std::memset(memory + end, 0, t.offset - end);
    end = t.offset + t.bytes;
  }
  std::memset(memory + end, 0, group.bytes - end);
  return reads;
}

} // namespace tropilla
