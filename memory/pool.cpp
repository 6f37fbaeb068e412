// Implements two-level segregated fit over records that live beside the memory.
#include "memory/pool.hpp"

#include "memory/poison.hpp"
#include "memory/size_classes.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <fmt/format.h>
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
  std::size_t touched = 0;       ///< granules of free blocks
  std::byte* poisoned = nullptr; ///< the reservation, when freed bytes are to be marked

  impl(std::size_t capacity, std::size_t alignment)
      : granule(alignment), shift(static_cast<unsigned>(std::countr_zero(alignment))) {
    assert(std::has_single_bit(alignment));
    stats.capacity = capacity >> shift << shift;
    if (stats.capacity == 0)
      return;
    ensure_spare();
    const record_id whole = take_spare();
    records[whole].size = records[whole].untouched_size = stats.capacity >> shift;
    insert(whole);
  }

  ~impl() {
    if (poisoned)
      unpoison(poisoned, stats.capacity);
  }
  impl(const impl&) = delete;
  impl& operator=(const impl&) = delete;

  [[nodiscard]] std::size_t granules(std::size_t bytes) const noexcept {
    return (std::max<std::size_t>(bytes, 1) + granule - 1) >> shift;
  }

  /// Makes a spare record: the one place that allocates, before anything else changes.
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
    records[id].in_use = false; // a block that is freed twice meets the assertion
    records[id].size = 0;       // no free bytes either
    records[id].next_free = spare;
    spare = id;
  }

  /// Puts a free block into its class, or takes it out.
  void insert(record_id id) noexcept {
    free.insert(records, id);
    touched += records[id].touched();
  }
  void remove(record_id id) noexcept {
    free.remove(records, id);
    touched -= records[id].touched();
  }

  [[nodiscard]] bool is_free(record_id id) const noexcept { return id != none && !records[id].in_use; }

  /// Frees a block, joined with its neighbours that are free. Returns the block that it is now.
  record_id release(record_id id) noexcept {
    if (poisoned)
      detail::poison(poisoned + (records[id].begin << shift), records[id].size << shift);
    records[id].in_use = false;
    if (const auto after = records[id].after; is_free(after)) {
      remove(after);
      merge(id, after);
    }
    if (const auto before = records[id].before; is_free(before)) {
      remove(before);
      merge(before, id);
      id = before;
    }
    insert(id);
    return id;
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
    remove(id);
    const std::size_t begin = records[id].untouched_begin, behind = begin + records[id].untouched_size;
    records[id].untouched_size = 0;
    if (records[id].size == size)
      return id;
    const bool low = from == end::low;
    const record_id second = cut(id, low ? size : records[id].size - size);
    auto& left = records[low ? second : id];
    left.untouched_begin = std::max(begin, left.begin);
    left.untouched_size =
        std::max(std::min(behind, left.begin + left.size), left.untouched_begin) - left.untouched_begin;
    insert(low ? second : id);
    return low ? id : second;
  }

  [[nodiscard]] range range_of(record_id id) const noexcept {
    const auto& r = records[id];
    return {r.begin << shift, r.size << shift, r.touched() << shift, id};
  }

  /// Throws when the bytes about to be taken were written to; makes them usable.
  void check_poison(const record& r, std::size_t size, end from) const {
    const std::size_t offset = (from == end::low ? r.begin : r.begin + r.size - size) << shift;
    const std::size_t bytes = size << shift;
    if (const std::size_t at = first_damage(poisoned + offset, bytes); at < bytes)
      throw error(
          errc::internal,
          fmt::format("byte {} of a pool of {} bytes was written after it was freed: it is 0x{:02x}, not 0x{:02x}",
                      offset + at, stats.capacity, std::to_integer<unsigned>(poisoned[offset + at]),
                      std::to_integer<unsigned>(poison_pattern)));
    unpoison(poisoned + offset, bytes);
  }

  std::optional<block> take(std::size_t bytes, end from) {
    if (bytes > stats.capacity)
      return std::nullopt;
    const std::size_t size = granules(bytes);
    const record_id found = free.find(records, size);
    if (found == none)
      return std::nullopt;
    ensure_spare();
    if (poisoned)
      check_poison(records[found], size, from);
    const record_id id = carve(found, size, from);
    records[id].in_use = true;
    stats.in_use += size << shift;
    stats.high_water = std::max(stats.high_water, stats.in_use);
    ++stats.blocks_in_use;
    ++stats.allocations;
    return block{records[id].begin << shift, id};
  }

  record_id give(block b) noexcept {
    assert(b.record < records.size() && records[b.record].in_use && records[b.record].begin << shift == b.offset);
    stats.in_use -= records[b.record].size << shift;
    --stats.blocks_in_use;
    ++stats.frees;
    return release(b.record);
  }

  /// Joins `right` to `left`, its neighbour before. Both are in no class.
  void merge(record_id left, record_id right) noexcept {
    auto& l = records[left];
    const auto& r = records[right];
    l.size += r.size;
    l.after = r.after;
    if (r.after != none)
      records[r.after].before = left;
    if (r.untouched_size > l.untouched_size) {
      l.untouched_begin = r.untouched_begin;
      l.untouched_size = r.untouched_size;
    }
    give_spare(right);
  }
};

pool::pool(std::size_t capacity, std::size_t alignment) : impl_(std::make_unique<impl>(capacity, alignment)) {}
pool::~pool() = default;
pool::pool(pool&&) noexcept = default;
pool& pool::operator=(pool&&) noexcept = default;

std::optional<pool::block> pool::allocate(std::size_t bytes, end from) {
  return impl_->take(bytes, from);
}

pool::range pool::free(block b) noexcept {
  return impl_->range_of(impl_->give(b));
}

void pool::for_each_free(const std::function<bool(const range&)>& visit) const {
  for (record_id id = 0; id < impl_->records.size(); ++id)
    if (const auto& r = impl_->records[id]; !r.in_use && r.size != 0 && !visit(impl_->range_of(id)))
      return;
}

std::size_t pool::touched() const noexcept {
  return impl_->touched << impl_->shift;
}

void pool::forget_touched(const range& of) noexcept {
  auto& r = impl_->records[of.record];
  assert(!r.in_use && r.begin << impl_->shift == of.offset);
  impl_->touched -= r.touched();
  r.untouched_begin = r.begin;
  r.untouched_size = r.size;
}

void pool::poison(std::byte* base) noexcept {
  assert(impl_->stats.allocations == 0);
  impl_->poisoned = base;
  poison_unused(base, impl_->stats.capacity);
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
