/// A model opened as far as its header, and the bytes that running it would take, by device.
#pragma once

#include "memory/memory_limit.hpp"
#include "runtime/runtime_hooks.hpp"
#include "src/model/gguf.hpp"
#include "src/placement/placement_search.hpp"
#include "tropilla/runtime.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace tropilla {

struct prepared_model {
  gguf_file file;
  llama_config model;
  run_shape shape;
  device_split split;
  std::vector<placed_shard> shards;        ///< in the order of the layers, those with shares of the same ones by rank
  std::shared_ptr<memory_balance> balance; ///< between pages and weights of all shards; null when the plan does not fit
  plan_report report;
  std::vector<std::string> notices; ///< what a limit changed, and budgets that are above it
  program_needs needs;              ///< besides the arbiter

  /// Opens the devices and plans; reads nothing but the file's header. Throws `error` as `runtime`'s constructor, but
  /// not over_budget.
  [[nodiscard]] static prepared_model open(const runtime_config& config, const runtime_hooks& hooks = {});
  /// Throws `error` (over_budget) for the first device whose plan does not fit with all KV pages that may exist at
  /// once.
  void require_fits() const;
};

/// Tokens of a context: those that are wanted or, for 0, as many as a run has without a word. Throws `error`
/// (invalid_argument).
[[nodiscard]] std::size_t choose_context(std::size_t wanted, const llama_config& model);

} // namespace tropilla
