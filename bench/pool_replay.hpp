/// Replays recorded traffic, as far as a pool sees it.
#pragma once

#include "bench/pool_recording.hpp"

#include <cstddef>
#include <cstdint>

namespace tropilla::bench {

/// How blocks get their places.
enum class placement_rule : std::uint8_t {
  one_end,  ///< all from the low end
  two_ends, ///< KV extents from the low end, the rest from the high end: what the arbiter does
  slabs,    ///< as above, with extents cut from slabs of `slab_extents`
};

struct replay_options {
  std::uint64_t operations = 1'000'000; ///< allocations and frees, at least; whole rounds of the recording are done
  std::size_t capacity = 0;             ///< bytes of the pool
  placement_rule rule = placement_rule::two_ends;
  std::size_t slab_extents = 4;
};

/// Two measures of fragmentation, of all rounds but the first. `scatter` is the share of the pool's free bytes that the
/// largest free block can't serve, as mean and as 95th percentile over the allocations. `waste` is how much more
/// address space was ever taken (all but the largest free block) than bytes were ever in use: what a reservation must
/// have beyond the budget (Johnstone and Wilson, "The Memory Fragmentation Problem: Solved?", 1998, their fourth
/// measure).
struct replay_result {
  std::uint64_t operations = 0, rounds = 0;
  std::uint64_t misplaced = 0; ///< blocks that the pool had no place for
  double wall_s = 0;
  std::size_t peak_bytes = 0; ///< in blocks
  double in_use_mean = 0;     ///< of the peak
  double waste = 0;
  double scatter_mean = 0, scatter_p95 = 0;
};

[[nodiscard]] replay_result replay(const pool_recording& recording, const replay_options& options);

/// The bytes that the recording has in use at once, at most: rounded as the pool rounds them.
[[nodiscard]] std::size_t peak_bytes(const pool_recording& recording);

/// The smallest pool that has a place for every block, to 1/256 of the peak.
[[nodiscard]] std::size_t smallest_capacity(const pool_recording& recording, replay_options options);

} // namespace tropilla::bench
