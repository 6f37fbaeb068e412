/// Sub-allocates one reservation: two-level segregated fit over offsets. Never touches the memory itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace tropilla {

/// What a pool has done so far. Bytes.
struct pool_statistics {
  std::size_t capacity = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0;
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
class pool {
public:
  /// What `allocate` hands out and `free` takes back. The record spares `free` a search by offset.
  struct block {
    std::size_t offset = 0; ///< bytes from the start of the reservation
    std::uint32_t record = 0;
  };

  /// Which end of the free memory a block is cut from. What stays for long and what comes and goes don't mix when they
  /// come from different ends, and the free memory between them stays whole.
  enum class end : std::uint8_t { low, high };

  /// @pre `alignment` is a power of two; `capacity` is rounded down to it.
  pool(std::size_t capacity, std::size_t alignment);
  ~pool();
  pool(pool&&) noexcept;
  pool& operator=(pool&&) noexcept;

  /// A block of at least `bytes` (rounded up to the alignment; 0 counts as 1), or empty.
  /// Throws `std::bad_alloc`, with the pool as before, when there is no memory for another record.
  [[nodiscard]] std::optional<block> allocate(std::size_t bytes, end from = end::low);
  /// @pre `b` came from `allocate` and was not freed since (checked by assert).
  void free(block b) noexcept;

  /// Bytes that `allocate(bytes)` takes.
  [[nodiscard]] std::size_t rounded(std::size_t bytes) const noexcept;
  [[nodiscard]] pool_statistics statistics() const noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
