// Divides slabs into slots.
#include "src/io/kv_slabs.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace tropilla {
namespace {

constexpr std::size_t slab_bytes = std::size_t{16} << 20; ///< if a slot is not larger

} // namespace

std::byte* kv_slabs::take() {
  if (with_room_.empty())
    return nullptr;
  auto& s = slabs_.at(*with_room_.begin());
  auto* const slot = s.free.back();
  s.free.pop_back();
  if (s.free.empty())
    with_room_.erase(with_room_.begin());
  return slot;
}

kv_slabs::slab& kv_slabs::slab_of(std::byte* slot) {
  const auto behind = slabs_.upper_bound(slot);
  assert(behind != slabs_.begin());
  return std::prev(behind)->second;
}

void kv_slabs::give_back(std::byte* slot) {
  auto& s = slab_of(slot);
  s.free.push_back(slot); // has room since the slab was made
  if (s.free.size() == 1)
    with_room_.insert(s.memory.get());
}

std::size_t kv_slabs::begin_growth() noexcept {
  const auto slots =
      std::min(std::max<std::size_t>(slab_bytes / slot_bytes_, 1), max_slots_ - std::min(held_, max_slots_));
  held_ += slots;
  return slots;
}

void kv_slabs::end_growth(std::size_t slots, std::shared_ptr<std::byte> memory) {
  if (!memory) {
    held_ -= slots;
    max_slots_ = held_;
    return;
  }
  auto* const first = memory.get();
  slab s{std::move(memory), slots, {}};
  s.free.reserve(slots);
  for (std::size_t i = slots; i-- > 0;)
    s.free.push_back(first + i * slot_bytes_);
  slabs_.emplace(first, std::move(s));
  with_room_.insert(first);
}

std::vector<std::shared_ptr<std::byte>> kv_slabs::begin_release() {
  std::vector<std::shared_ptr<std::byte>> out;
  for (auto it = slabs_.begin(); it != slabs_.end();) {
    auto& s = it->second;
    if (s.free.size() < s.slots) {
      ++it;
      continue;
    }
    releasing_ += s.slots;
    out.push_back(std::move(s.memory));
    with_room_.erase(it->first);
    it = slabs_.erase(it);
  }
  return out;
}

void kv_slabs::end_release() {
  held_ -= std::exchange(releasing_, 0);
}

} // namespace tropilla
