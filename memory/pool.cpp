// Two-level segregated fit over records that live beside the memory.
#include "memory/pool.hpp"

#include "memory/size_classes.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <vector>

namespace tropilla {

using namespace detail;

double pool_statistics::fragmentation() const noexcept {
  const std::size_t free = capacity - in_use;
  return free == 0 ? 0 : 1 - static_cast<double>(largest_free) / static_cast<double>(free);
}

struct pool::impl {
  std::size_t granule; ///< bytes
  unsigned shift;      ///< its binary logarithm: a division by a variable costs more than the rest of a rounding
  std::vector<record> records;
  record_id spare = none; ///< records that are not in use, linked by `next_free`
  free_lists free;
  pool_statistics stats;

  impl(std::size_t capacity, std::size_t alignment)
      : granule(alignment), shift(static_cast<unsigned>(std::countr_zero(alignment))) {
    assert(std::has_single_bit(alignment));
    stats.capacity = capacity >> shift << shift;
    if (stats.capacity == 0)
      return;
    ensure_spare();
    const record_id whole = take_spare();
    records[whole].size = stats.capacity >> shift;
    free.insert(records, whole);
  }

  [[nodiscard]] std::size_t granules(std::size_t bytes) const noexcept {
    return (std::max<std::size_t>(bytes, 1) + granule - 1) >> shift;
  }

  /// The one place that allocates, before anything else changes.
  void ensure_spare() {
    if (spare != none)
      return;
    records.emplace_back();
    spare = static_cast<record_id>(records.size() - 1);
  }

  record_id take_spare() noexcept {
    const record_id id = spare;
    spare = records[id].next_free;
    records[id] = record{};
    return id;
  }

  void give_spare(record_id id) noexcept {
    records[id].is_free = true; // a block that is freed twice meets the assertion
    records[id].next_free = spare;
    spare = id;
  }

  /// Cuts a block, which is in no class, so that its first part has `size` granules. Returns the second part.
  /// @pre a spare record
  record_id cut(record_id id, std::size_t size) noexcept {
    auto& r = records[id];
    const record_id second = take_spare();
    auto& s = records[second];
    s.begin = r.begin + size;
    s.size = r.size - size;
    s.before = id;
    s.after = r.after;
    if (r.after != none)
      records[r.after].before = second;
    r.size = size;
    r.after = second;
    return second;
  }

  /// Takes `size` granules from an end of the free block; what is left goes back. Returns the part that was taken.
  record_id carve(record_id id, std::size_t size, end from) noexcept {
    free.remove(records, id);
    if (records[id].size == size)
      return id;
    const bool low = from == end::low;
    const record_id second = cut(id, low ? size : records[id].size - size);
    free.insert(records, low ? second : id);
    return low ? id : second;
  }

  /// Joins `right` to `left`, its neighbour before. Both are in no class.
  void merge(record_id left, record_id right) noexcept {
    auto& l = records[left];
    const auto& r = records[right];
    l.size += r.size;
    l.after = r.after;
    if (r.after != none)
      records[r.after].before = left;
    give_spare(right);
  }
};

pool::pool(std::size_t capacity, std::size_t alignment) : impl_(std::make_unique<impl>(capacity, alignment)) {}
pool::~pool() = default;
pool::pool(pool&&) noexcept = default;
pool& pool::operator=(pool&&) noexcept = default;

std::optional<pool::block> pool::allocate(std::size_t bytes, end from) {
  auto& p = *impl_;
  if (bytes > p.stats.capacity)
    return std::nullopt;
  const std::size_t size = p.granules(bytes);
  const record_id found = p.free.find(p.records, size);
  if (found == none)
    return std::nullopt;
  p.ensure_spare();
  const record_id id = p.carve(found, size, from);
  p.stats.in_use += size << p.shift;
  p.stats.high_water = std::max(p.stats.high_water, p.stats.in_use);
  ++p.stats.blocks_in_use;
  ++p.stats.allocations;
  return block{p.records[id].begin << p.shift, id};
}

void pool::free(block b) noexcept {
  auto& p = *impl_;
  record_id id = b.record;
  assert(id < p.records.size() && !p.records[id].is_free && p.records[id].begin << p.shift == b.offset);
  p.stats.in_use -= p.records[id].size << p.shift;
  --p.stats.blocks_in_use;
  ++p.stats.frees;
  if (const auto after = p.records[id].after; after != none && p.records[after].is_free) {
    p.free.remove(p.records, after);
    p.merge(id, after);
  }
  if (const auto before = p.records[id].before; before != none && p.records[before].is_free) {
    p.free.remove(p.records, before);
    p.merge(before, id);
    id = before;
  }
  p.free.insert(p.records, id);
}

std::size_t pool::rounded(std::size_t bytes) const noexcept {
  return impl_->granules(bytes) << impl_->shift;
}

pool_statistics pool::statistics() const noexcept {
  auto s = impl_->stats;
  s.largest_free = impl_->free.largest(impl_->records) << impl_->shift;
  return s;
}

} // namespace tropilla
