// Divides attention into items for warps: tiles of rows, or splits of one row's context.
#include "kernels/cuda/attention_metadata.hpp"

#include "memory/rounding.hpp"

#include <algorithm>

namespace tropilla::cuda {
namespace {

std::uint32_t splits_of(std::size_t position) noexcept {
  const std::size_t pages = kv_pages_for(position + 1);
  return static_cast<std::uint32_t>(divide_up(pages, attention_split_pages));
}

} // namespace

host_attention_metadata::host_attention_metadata(const attention_shape& shape,
                                                 std::span<const sequence_rows> sequences) {
  const std::uint32_t tile = attention_tile_rows(shape);
  for (const auto& s : sequences) {
    const auto first_page = static_cast<std::uint32_t>(page_starts.size());
    const auto first_row = static_cast<std::uint32_t>(places.size());
    page_starts.insert(page_starts.end(), s.pages, s.pages + kv_pages_for(s.position + s.rows));
    for (std::size_t r = 0; r < s.rows; ++r)
      places.push_back({static_cast<std::uint32_t>(s.position + r), first_page});
    if (const std::uint32_t splits = splits_of(s.position); s.rows == 1 && splits > 1) {
      places.back().first_slot = slots;
      places.back().splits = splits;
      for (std::uint32_t p = 0; p < splits; ++p)
        items.push_back({first_row, 1, p, 1, slots++});
      continue;
    }
    for (std::uint32_t r = 0; r < s.rows; r += tile) {
      const std::uint32_t rows = std::min(tile, static_cast<std::uint32_t>(s.rows) - r);
      items.push_back({first_row + r, rows, 0, splits_of(s.position + r + rows - 1), no_slot});
    }
  }
}

std::size_t host_attention_metadata::max_items(std::size_t rows, std::size_t pages) noexcept {
  return rows + max_slots(pages);
}

/// A divided context has two splits or more, so at least one page more than fill one: of n pages no more than n / 4
/// splits come, the last one begun counted.
std::size_t host_attention_metadata::max_slots(std::size_t pages) noexcept {
  static_assert(attention_split_pages == 8, "2 splits of 9 pages are the most for their pages");
  return pages / 4;
}

} // namespace tropilla::cuda
