// Blocks of powers of two, from chunks that have one size each. What is freed is kept for its size.
#include "tests/gpu/pinned_heap.hpp"

#include "memory/rounding.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

namespace tropilla::testing {
namespace {

constexpr std::size_t chunk_bytes = std::size_t{64} << 10;
constexpr std::size_t smallest_block = 64, max_chunks = std::size_t{1} << 15;

class heap {
public:
  constexpr heap() = default;

  void use(std::byte* memory, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    begin_ = memory;
    chunks_ = std::min(bytes / chunk_bytes, max_chunks);
    used_ = 0;
  }

  /// Null where there is no room.
  void* take(std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    const auto order = static_cast<unsigned>(std::bit_width(std::max(bytes, smallest_block) - 1));
    const std::size_t block = std::size_t{1} << order;
    if (free_[order] == nullptr && !refill(order, block))
      return nullptr;
    free_block* const found = free_[order];
    free_[order] = found->next;
    return found;
  }

  /// False for what is not the heap's.
  bool give_back(void* p) noexcept {
    const std::lock_guard lock(mutex_);
    const auto* const at = static_cast<std::byte*>(p);
    if (begin_ == nullptr || at < begin_ || at >= begin_ + used_ * chunk_bytes)
      return false;
    keep(static_cast<std::byte*>(p), orders_[static_cast<std::size_t>(at - begin_) / chunk_bytes]);
    return true;
  }

private:
  struct free_block {
    free_block* next;
  };

  void keep(std::byte* p, unsigned order) noexcept { free_[order] = new (p) free_block{free_[order]}; }

  bool refill(unsigned order, std::size_t block) noexcept {
    const std::size_t wanted = std::max(block, chunk_bytes) / chunk_bytes;
    if (wanted > chunks_ - used_)
      return false;
    std::byte* const first = begin_ + used_ * chunk_bytes;
    for (std::size_t i = 0; i < wanted; ++i)
      orders_[used_++] = static_cast<std::uint8_t>(order);
    for (std::size_t at = 0; at < wanted * chunk_bytes; at += block)
      keep(first + at, order);
    return true;
  }

  std::mutex mutex_;
  std::byte* begin_ = nullptr;
  std::size_t chunks_ = 0, used_ = 0;
  std::array<std::uint8_t, max_chunks> orders_{}; ///< of the blocks of a chunk
  std::array<free_block*, 64> free_{};
};

constinit heap of_program;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (void* const p = of_program.take(std::max(bytes, alignment)))
    return p;
  void* const p = std::aligned_alloc(alignment, round_up(bytes, alignment));
  if (p == nullptr)
    throw std::bad_alloc();
  return p;
}

void release(void* p) noexcept {
  if (p != nullptr && !of_program.give_back(p))
    std::free(p);
}

} // namespace

void use_as_heap(std::byte* memory, std::size_t bytes) noexcept {
  of_program.use(memory, bytes);
}

} // namespace tropilla::testing

void* operator new(std::size_t bytes) {
  return tropilla::testing::allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return tropilla::testing::allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept {
  tropilla::testing::release(p);
}
void operator delete(void* p, std::size_t) noexcept {
  tropilla::testing::release(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  tropilla::testing::release(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  tropilla::testing::release(p);
}
