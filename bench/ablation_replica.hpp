/// Computes one sequence with its buffers in bench_ablation, step after step, without actors.
#pragma once

#include "bench/ablation_memory.hpp"
#include "bench/ablation_weights.hpp"
#include "src/model/llama.hpp"
#include "src/sampling/draw.hpp"

#include <chrono>
#include <functional>
#include <vector>

namespace tropilla::bench {

using bench_clock = std::chrono::steady_clock;

/// The time that a reply took, in seconds.
struct reply {
  std::vector<token_id> tokens;
  bench_clock::time_point first_token{};
  double prefill_load = 0, prefill_compute = 0; ///< waiting for weights; computing
  double decode = 0;                            ///< from the first token to the last
};

/// The options that differ between strategies, and the objects that a replica works with.
struct replica_setup {
  const llama_layout* layout = nullptr; ///< these four outlive the replica
  device* dev = nullptr;
  memory_source* memory = nullptr;
  weights* groups = nullptr;
  tracer* trace = nullptr; ///< may be null
  run_shape shape{};
  /// Activations have planned places in one arena, and keys and values come by the page, as tokens do. Else each buffer
  /// of a step is allocated for it and freed after it, and keys and values lie in one zeroed block for the whole
  /// context.
  bool planned = false;
};

/// One sequence. One thread.
class replica {
public:
  explicit replica(const replica_setup& setup);

  /// Generates greedily; goes on past the tokens that end a reply.
  [[nodiscard]] reply generate(const std::vector<token_id>& prompt, std::size_t count);
  /// The logits of each position of `ids`.
  void score(const std::vector<token_id>& ids, const std::function<void(std::size_t, std::span<const float>)>& row);

private:
  /// The buffers of a step, from before it until its logits were read.
  struct buffers {
    std::vector<block> blocks;
    llama_workspace space;
  };
  [[nodiscard]] buffers buffers_for(std::size_t rows, std::size_t logit_rows);
  void begin_sequence();
  void have_pages(std::size_t tokens);
  /// Appends `rows` tokens of `ids` from `position` on. `logits`: of the last row alone, or of all.
  [[nodiscard]] buffers compute(std::span<const token_id> ids, std::size_t position, bool all_logits);

  replica_setup setup_;
  block workspace_, arena_;
  offset_plan offsets_;
  std::vector<block> kv_;
  std::vector<std::byte*> pages_;
  std::optional<llama_workspace> tables_;
  tracer::track track_ = 0;
  double load_ = 0, compute_ = 0;
  token_drawer drawer_;
};

} // namespace tropilla::bench
