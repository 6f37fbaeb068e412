/// Replays a day of serving, as far as a pool sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tropilla::bench {

/// Quantiles 0, 25, 50, 75, 95 and 100% of what is drawn.
using quantiles = std::vector<double>;

/// One kind of request.
struct request_class {
  std::string name;
  double share = 0;     ///< of all that arrive
  double continues = 0; ///< probability that another turn follows
  quantiles prompt_tokens, reply_tokens, pause_s;
};

/// The contents of bench/data/pool_mix.json; see there.
struct request_mix {
  std::size_t budget_bytes = 0, alignment = 0;
  std::size_t kv_page_tokens = 0, kv_page_bytes = 0;
  std::vector<std::size_t> resident_bytes;
  std::size_t slot_bytes = 0, min_slots = 0, max_slots = 0;
  std::size_t staging_bytes = 0, staging_blocks = 0;
  double staging_s = 0;
  std::size_t activation_bytes_per_row = 0, activation_rows = 0, logits_bytes = 0;
  double prefill_tokens_per_s = 0, decode_tokens_per_s = 0, requests_per_s = 0;
  std::vector<double> rate_by_hour;
  std::vector<request_class> classes;
};

/// Throws `error` (io_error, malformed_file).
[[nodiscard]] request_mix read_mix(const std::string& path);

struct replay_options {
  std::uint64_t operations = 10'000'000; ///< allocations and frees
  std::size_t capacity = 0;              ///< bytes of the pool; at least the mix's budget
  std::uint64_t seed = 1;
  bool one_end = false; ///< everything from the low end: what the two ends are compared with
};

/// Two measures of fragmentation. `scatter` is the share of the pool's free bytes that the largest free block can't
/// serve, at the end, as mean and as 95th percentile over time: it counts holes among KV pages, which other pages fill.
/// `waste` is how much more address space was ever taken (all but the largest free block) than bytes were ever in use:
/// what a reservation must have beyond the budget (Johnstone and Wilson, "The Memory Fragmentation Problem: Solved?",
/// 1998, their fourth measure).
struct replay_result {
  std::uint64_t operations = 0, requests = 0, preempted = 0;
  std::uint64_t misplaced = 0; ///< blocks that the budget had bytes for and the pool no place
  double simulated_s = 0, wall_s = 0;
  double in_use_mean = 0, in_use_peak = 0; ///< of the budget
  double waste = 0;
  double scatter_end = 0, scatter_mean = 0, scatter_p95 = 0;
};

[[nodiscard]] replay_result replay(const request_mix& mix, const replay_options& options);

} // namespace tropilla::bench
