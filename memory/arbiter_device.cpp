// Counts the bytes of one device by purpose, and gives pages of free bytes back to the system where the budget needs
// it.
#include "memory/arbiter_device.hpp"

#include "memory/lease_block.hpp"
#include "memory/poison.hpp"

#include <algorithm>

namespace tropilla::detail {
namespace {

#ifdef NDEBUG
constexpr bool assertions = false;
#else
constexpr bool assertions = true;
#endif

/// The end of the pool that a purpose takes blocks from. KV pages come and go with sequences; the rest stays, or is
/// short-lived and large. Kept apart, they leave the free memory whole (`bench_pool --replay` compares). KV pages come
/// in extents, slabs of equal pages that are equal themselves: they fill each other's holes, and slabs of extents gain
/// nothing (docs/benchmarks.md, Pool).
constexpr pool::end end_for(purpose p) noexcept {
  return p == purpose::kv ? pool::end::low : pool::end::high;
}

} // namespace

arbiter_device::arbiter_device(const device_setup& setup)
    : base(setup.base), blocks(setup.reservation_bytes, setup.alignment), commit_(setup.commit), trim_(setup.trim) {
  usage.device = setup.name;
  usage.budget = setup.budget;
  if (setup.host_memory && base && (assertions || poison_by_sanitizer))
    blocks.poison(base);
}

std::size_t arbiter_device::shortage() const noexcept {
  const std::size_t wanted = usage.in_use + usage.waiting_bytes;
  if (wanted > usage.budget)
    return wanted - usage.budget;
  // A waiter that has room has no block: as much more is short, since the free bytes that it joins may be enough.
  return queue.empty() ? 0 : taken_by(queue.front().request);
}

arbiter_device::allocation arbiter_device::allocate(lease::block& b, const memory_request& r, std::string& why) {
  b.device = name;
  b.bytes = r.bytes;
  b.used_for = r.used_for;
  if (r.outside) {
    b.data = r.outside->data;
    b.outside = true;
    b.shared = b.data != nullptr && outside_[b.data]++ > 0;
    b.keep_alive = r.outside->keep_alive;
    return allocation::done;
  }
  const auto found = blocks.allocate(r.bytes, end_for(r.used_for));
  if (!found)
    return allocation::no_block;
  allocated_ += rounded(r);
  b.pool_block = *found;
  trim_to_budget(); // first: the device may have no memory for both
  if (commit_ && !r.commits_later) {
    auto refused = commit_(found->offset, r.bytes);
    if (refused && trim_ && blocks.touched() > 0) {
      trim_all();
      refused = commit_(found->offset, r.bytes);
    }
    if (refused) {
      free(b);
      why = std::move(*refused);
      return allocation::no_memory;
    }
  }
  b.data = base ? base + found->offset : nullptr;
  return allocation::done;
}

void arbiter_device::free(const lease::block& b) noexcept {
  if (b.outside) {
    (void)is_last(b);
    return;
  }
  allocated_ -= blocks.rounded(b.bytes);
  blocks.free(b.pool_block);
}

bool arbiter_device::is_last(const lease::block& b) noexcept {
  if (b.data == nullptr)
    return true;
  const auto it = outside_.find(b.data);
  if (--it->second > 0)
    return false;
  outside_.erase(it);
  return true;
}

void arbiter_device::enter(const lease::block& b) {
  if (b.shared)
    return;
  const std::size_t bytes = blocks.rounded(b.bytes);
  const auto purpose = static_cast<std::size_t>(b.used_for);
  usage.in_use += bytes;
  usage.high_water = std::max(usage.high_water, usage.in_use);
  usage.by_purpose[purpose] += bytes;
  usage.high_water_by_purpose[purpose] = std::max(usage.high_water_by_purpose[purpose], usage.by_purpose[purpose]);
  if (b.outside) {
    outside_bytes_ += bytes;
    trim_to_budget();
  }
  tell_observers(b, true);
}

void arbiter_device::leave(const lease::block& b) noexcept {
  if (b.outside && !is_last(b))
    return; // others have it, too
  const std::size_t bytes = blocks.rounded(b.bytes);
  usage.in_use -= bytes;
  usage.by_purpose[static_cast<std::size_t>(b.used_for)] -= bytes;
  tell_observers(b, false);
  if (b.outside) {
    outside_bytes_ -= bytes;
    return;
  }
  allocated_ -= bytes;
  const auto freed = blocks.free(b.pool_block);
  if (trim_ && with_pages() > usage.budget) // all other free bytes were trimmed when the budget was lowered
    trim(freed);
}

void arbiter_device::tell_observers(const lease::block& b, bool granted) const noexcept {
  if (observers.empty())
    return;
  const auto offset = b.outside ? std::nullopt : std::optional(b.pool_block.offset);
  const memory_change change{b.used_for, granted, blocks.rounded(b.bytes), offset, usage.by_purpose};
  for (const auto& hear : observers)
    hear(change);
}

void arbiter_device::set_budget(std::size_t budget) {
  usage.budget = budget;
  trim_to_budget();
}

void arbiter_device::trim_to_budget() noexcept {
  if (!trim_ || with_pages() <= usage.budget)
    return;
  blocks.for_each_free([this](const pool::range& r) {
    if (r.touched > 0)
      trim(r);
    return with_pages() > usage.budget;
  });
}

void arbiter_device::trim_all() noexcept {
  if (!trim_)
    return;
  blocks.for_each_free([this](const pool::range& r) {
    if (r.touched > 0)
      trim(r);
    return true;
  });
}

/// All of the stretch, not what is touched alone: a page at the border of two blocks goes back with the second.
void arbiter_device::trim(const pool::range& r) noexcept {
  trim_(r.offset, r.bytes);
  blocks.forget_touched(r);
}

device_usage arbiter_device::describe() const {
  auto u = usage;
  u.waiters = queue.size();
  u.shortage = shortage();
  u.pool = blocks.statistics();
  return u;
}

} // namespace tropilla::detail
