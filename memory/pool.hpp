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
  std::size_t high_water = 0;   ///< of `in_use`
  std::size_t pending = 0;      ///< freed, but so far only for the stream that freed them
  std::size_t largest_free = 0; ///< for everybody
  std::size_t blocks_in_use = 0;
  std::uint64_t allocations = 0;
  std::uint64_t frees = 0;

  /// Share of the free bytes that the largest free block can't serve, 0 to 1. Pending bytes count as free.
  [[nodiscard]] double fragmentation() const noexcept;
};

/// Allocations per second between two readings that the caller took `seconds` apart by its own clock; 0 for no time.
[[nodiscard]] double allocations_per_second(const pool_statistics& before, const pool_statistics& after,
                                            double seconds) noexcept;

/// O(1) allocate and free with coalescing, without a malloc once it has seen its largest number of blocks.
/// Not thread-safe: its owner serialises.
/// Method: Masmano et al., "TLSF: a New Dynamic Memory Allocator for Real-Time Systems", ECRTS 2004;
/// block records live beside the pool, not in it, because the pool may be a device's memory.
///
/// Streams. Work that still runs on a stream may use a block after it was freed in program order. `free_on` hands such
/// a block to its stream, for which it is free at once, because what the stream does next comes after. For everybody
/// else it is free when the stream has reached the point at which the block was freed. A point is a number that grows
/// along the stream (a count of jobs, or of events recorded); the pool knows no devices, so its owner tells it how far
/// a stream came.
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
  /// Calls `visit` for stretches that are free for everybody, in no order, until it returns false. O(number of blocks).
  void for_each_free(const std::function<bool(const range&)>& visit) const;

  /// Free bytes that may have been written: they were in a block since the pool was made, or since `forget_touched`.
  /// Never too few. Too many where a block joins two untouched stretches: the smaller one then counts as touched.
  [[nodiscard]] std::size_t touched() const noexcept;
  /// The pages of a free stretch went back: all of it counts as untouched. @pre the pool has not changed since `free`
  /// or `for_each_free` named it
  void forget_touched(const range& r) noexcept;

  /// Finds bugs: from now on freed bytes are filled with a pattern, which `allocate` checks, or, in a build with
  /// AddressSanitizer, any access to free bytes is reported. Bytes that a stream freed follow when it reached their
  /// point. @pre nothing was allocated; `base` is the whole reservation, memory that the processor may write (never a
  /// device's), reads as zeros where it was not written, and outlives the pool.
  void poison(std::byte* base) noexcept;

  using stream = std::uint32_t;
  /// Adds a stream to free on. It takes a few KiB for as long as the pool lives.
  [[nodiscard]] stream add_stream();
  /// As `allocate`, for work that is ordered on `s`: what `s` freed comes first.
  [[nodiscard]] std::optional<block> allocate_on(stream s, std::size_t bytes, end from = end::low);
  /// Frees a block that work on `s` may use until `s` reaches `point`. @pre points on a stream do not fall.
  void free_on(stream s, block b, std::uint64_t point) noexcept;
  /// Notes that `s` has reached `point`: what it freed up to there is free for everybody. O(1) for each such block.
  void reached(stream s, std::uint64_t point) noexcept;
  /// The first point of `s` that a pending block waits for: what to synchronise with when `allocate` found nothing.
  [[nodiscard]] std::optional<std::uint64_t> next_point(stream s) const noexcept;

  /// Bytes that `allocate(bytes)` takes.
  [[nodiscard]] std::size_t rounded(std::size_t bytes) const noexcept;
  [[nodiscard]] pool_statistics statistics() const noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
