/// Searches for the run shape that a model's devices have room for: how many tokens may have KV pages at once.
#pragma once

#include "src/placement/device_split.hpp"
#include "src/placement/memory_balance.hpp"
#include "src/placement/placement.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tropilla {

/// A device with the layers that it gets, and their placement.
struct placed_shard {
  std::shared_ptr<device> dev;
  placement_input input;
  std::size_t budget = 0;                            ///< bytes; 0: the plan's total, or the limit where that is less
  bool has_budget = false;                           ///< it was given, and is not the limit
  std::shared_ptr<const weight_placement> placement; ///< for `input` and `budget`, to begin with
  memory_plan full_plan;                             ///< for them, with all pages that may exist at once: it has to fit
  std::size_t everything = 0;                        ///< bytes of the plan, were there no limit

  /// The most that it may hold, and who says so where it is not a budget that was given.
  [[nodiscard]] std::pair<std::size_t, std::string> bound() const;
  [[nodiscard]] bool fits() const { return full_plan.total <= bound().first; }
  [[nodiscard]] bool streams() const { return placement->plan.ring_slots > 0; }
};

/// The shapes that a configuration allows.
struct shape_choice {
  run_shape first;                        ///< with the most tokens that may have KV pages without a word
  std::optional<run_shape> smaller_steps; ///< tried where `first` exceeds a budget; empty: steps are as asked for
  bool kv_tokens_fixed = false;           ///< the number of tokens with KV pages was asked for
};

/// Sequences may take the place of weights, so all pages that may exist have to fit while weights are streamed. One
/// thread.
class placement_search {
public:
  /// `shards` have their devices, inputs (layers and limits, too) and budgets, and outlive the search.
  placement_search(std::vector<placed_shard>& shards, const shape_choice& choice);

  /// Finds the shape with the most tokens that may have pages and leaves it in the shards, with the placements of the
  /// first division between weights and pages. What exceeds a budget whatever the shape has the smallest placement of
  /// the smallest shape. Throws as `place`.
  [[nodiscard]] run_shape find();
  /// What divides the budgets from then on; null when something exceeds one. @pre `find` returned
  [[nodiscard]] std::shared_ptr<memory_balance> balance() const { return balance_; }

private:
  void place_with(std::size_t kv_tokens);
  void give_up_pages();
  void use_spare_bytes();
  [[nodiscard]] bool streams() const;
  [[nodiscard]] bool fits() const;

  std::vector<placed_shard>& shards_;
  shape_choice choice_;
  run_shape shape_;
  std::shared_ptr<memory_balance> balance_;
};

/// Pages of an extent on these devices, which have placements.
[[nodiscard]] std::size_t extent_pages_of(const std::vector<placed_shard>& shards);

/// Gives each stage as many of the model's layers as its share of the budgets, without what requests hold, and at least
/// one; and each device of a stage a share of every matrix in the same proportion. A device without a budget counts as
/// much as any other. `shards`: as many as the split has devices, one stage after another. Throws `error`
/// (invalid_argument) for more stages than layers, or more devices of a stage than can share a matrix.
void divide_model(std::vector<placed_shard>& shards, const device_split& split, const llama_config& model,
                  std::size_t kv_tokens);

/// Divides `bytes` of the processor's memory equally between the devices with memory of their own. Throws `error`
/// (invalid_argument) where there are bytes and no such device.
void divide_pinned(std::vector<placed_shard>& shards, std::size_t bytes);

} // namespace tropilla
