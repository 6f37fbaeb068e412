/// Sub-allocates one reservation: two-level segregated fit over offsets. Never touches the memory itself, unless asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace tropilla {

/// Counts of a pool since it was made. Bytes.
struct pool_statistics {
  std::size_t capacity = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0; ///< of `in_use`
  std::size_t largest_free = 0;
  std::size_t blocks_in_use = 0;
  std::uint64_t allocations = 0;
  std::uint64_t frees = 0;

  /// Share of the free bytes that the largest free block can't serve, 0 to 1.
  [[nodiscard]] double fragmentation() const noexcept;
};

/// O(1) allocate and free with coalescing, without a malloc once it has seen its largest number of blocks.
/// Not thread-safe: its owner serialises.
/// Method: Masmano et al., "TLSF: a New Dynamic Memory Allocator for Real-Time Systems", ECRTS 2004;
/// block records live beside the pool, not in it, because the pool may be a device's memory.
///
/// A freed block may be handed out at once, so work on a stream that uses its bytes is done before it is freed: a job
/// holds its leases until the event behind it.
class pool {
public:
  /// A block that `allocate` hands out and `free` takes back. The record spares `free` a search by offset.
  struct block {
    std::size_t offset = 0; ///< bytes from the start of the reservation
    std::uint32_t record = 0;
  };

  /// The end of the free memory that a block is cut from. Long-lived and short-lived blocks don't mix when they come
  /// from different ends, and the free memory between them stays whole.
  enum class end : std::uint8_t { low, high };

  /// @pre `alignment` is a power of two; `capacity` is rounded down to it.
  pool(std::size_t capacity, std::size_t alignment);
  ~pool();
  pool(pool&&) noexcept;
  pool& operator=(pool&&) noexcept;

  /// A block of at least `bytes` (rounded up to the alignment; 0 counts as 1), or empty.
  /// Throws `std::bad_alloc` when there is no memory for another record and, with `poison`, `error` (internal) when
  /// something wrote to the bytes since they were freed; the pool is then as before.
  [[nodiscard]] std::optional<block> allocate(std::size_t bytes, end from = end::low);
  /// A stretch of the reservation that is free. Valid until the pool changes.
  struct range {
    std::size_t offset = 0;
    std::size_t bytes = 0;
    std::size_t touched = 0; ///< of these; see `touched`
    std::uint32_t record = 0;
  };

  /// Returns the free bytes that the block is now part of. @pre `b` came from `allocate` and was not freed since
  /// (checked by assert).
  range free(block b) noexcept;
  /// Calls `visit` for stretches that are free, in no order, until it returns false. O(number of blocks).
  void for_each_free(const std::function<bool(const range&)>& visit) const;

  /// Free bytes that may have been written: they were in a block since the pool was made, or since `forget_touched`.
  /// Never too few. Too many where a block joins two untouched stretches: the smaller one then counts as touched.
  [[nodiscard]] std::size_t touched() const noexcept;
  /// The pages of a free stretch went back: all of it counts as untouched. @pre the pool has not changed since `free`
  /// or `for_each_free` named it
  void forget_touched(const range& r) noexcept;

  /// Finds bugs: from now on freed bytes are filled with a pattern, which `allocate` checks, or, in a build with
  /// AddressSanitizer, any access to free bytes is reported. @pre nothing was allocated; `base` is the whole
  /// reservation, memory that the processor may write (never a device's), reads as zeros where it was not written, and
  /// outlives the pool.
  void poison(std::byte* base) noexcept;

  /// Bytes that `allocate(bytes)` takes.
  [[nodiscard]] std::size_t rounded(std::size_t bytes) const noexcept;
  [[nodiscard]] pool_statistics statistics() const noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
