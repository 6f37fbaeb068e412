// Counts the bytes of one device by purpose and, after its budget shrank, gives pages of free bytes back to the system.
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
/// short-lived and large. Kept apart, they leave the free memory whole (`bench_pool --replay` compares).
constexpr pool::end end_for(purpose p) noexcept {
  return p == purpose::kv ? pool::end::low : pool::end::high;
}

} // namespace

arbiter_device::arbiter_device(const device_setup& setup)
    : base(setup.base), blocks(setup.reservation_bytes, setup.alignment), commit_(setup.commit), trim_(setup.trim),
      max_budget_(setup.budget) {
  usage.device = setup.name;
  usage.budget = setup.budget;
  if (setup.host_memory && base && (assertions || poison_by_sanitizer))
    blocks.poison(base);
}

std::size_t arbiter_device::shortage() const noexcept {
  const std::size_t wanted = usage.in_use + usage.waiting_bytes;
  return wanted > usage.budget ? wanted - usage.budget : unallocated;
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
  if (commit_ && !r.commits_later)
    if (auto refused = commit_(found->offset, r.bytes)) {
      blocks.free(*found);
      why = std::move(*refused);
      return allocation::no_memory;
    }
  b.pool_block = *found;
  b.data = base ? base + found->offset : nullptr;
  return allocation::done;
}

void arbiter_device::free(const lease::block& b) noexcept {
  if (!b.outside)
    blocks.free(b.pool_block);
  else
    (void)is_last(b);
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
  if (trimming_ && usage.in_use + cached_ > usage.budget)
    trim_all();
}

void arbiter_device::leave(const lease::block& b) noexcept {
  if (b.outside && !is_last(b))
    return; // others have it, too
  const std::size_t bytes = blocks.rounded(b.bytes);
  usage.in_use -= bytes;
  usage.by_purpose[static_cast<std::size_t>(b.used_for)] -= bytes;
  if (b.outside)
    return;
  const auto freed = blocks.free(b.pool_block);
  if (!trimming_)
    return;
  // The neighbours may have no pages any more; saying so twice is cheaper than remembering.
  if (usage.in_use + cached_ + bytes > usage.budget)
    trim_(freed.offset, freed.bytes);
  else
    cached_ += bytes;
}

void arbiter_device::set_budget(std::size_t budget) {
  const bool shrinks = budget < usage.budget;
  usage.budget = budget;
  max_budget_ = std::max(max_budget_, budget);
  trimming_ = trim_ && budget < max_budget_;
  if (trimming_ && shrinks)
    trim_all();
}

void arbiter_device::trim_all() noexcept {
  blocks.for_each_free([this](pool::range r) { trim_(r.offset, r.bytes); });
  cached_ = 0;
}

device_usage arbiter_device::describe() const {
  auto u = usage;
  u.shortage = shortage();
  u.pool = blocks.statistics();
  return u;
}

} // namespace tropilla::detail
