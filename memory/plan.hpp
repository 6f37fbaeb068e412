/// Plans every byte of a run, by device and purpose, before anything is read. It knows no models: callers give it
/// sizes.
#pragma once

#include "memory/lease.hpp"

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// A buffer that lives from one step of a schedule to another (both inclusive).
struct buffer_lifetime {
  std::string name;
  std::size_t bytes = 0;
  std::size_t first = 0;
  std::size_t last = 0;
};

/// Offsets for buffers so that those alive at the same time never overlap.
struct offset_plan {
  std::vector<std::size_t> offsets; ///< in the order of the buffers
  std::size_t bytes = 0;            ///< of the whole arena
};

/// Assigns offsets greedily, largest buffers first (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural
/// Net Inference", 2020, "greedy by size"). @pre `alignment` is a power of two.
[[nodiscard]] offset_plan assign_offsets(std::span<const buffer_lifetime> buffers, std::size_t alignment);

/// A group of weights that is loaded and leased as one: the embedding, a layer, the output head.
struct weight_group {
  std::string name; ///< "layer 12"
  std::size_t bytes = 0;
  bool streamable = false; ///< may come and go through the ring instead of staying
};

/// The sizes that a plan is made from.
struct plan_input {
  std::string device;
  std::size_t alignment = 64;       ///< the pool's
  std::vector<weight_group> groups; ///< in the order in which a step needs them
  std::size_t kv_page_bytes = 0;
  std::size_t kv_page_tokens = 0;
  std::size_t kv_tokens = 0; ///< to have pages for
  std::vector<buffer_lifetime> activations;
  std::size_t workspace_bytes = 0;
  std::size_t staging_bytes = 0;
  std::size_t request_bytes = 0;
  std::size_t budget = 0; ///< what does not fit is streamed; 0: everything stays
};

/// One line of the table that `tropilla plan` prints.
struct plan_item {
  purpose used_for{};
  std::string name;
  std::size_t bytes = 0; ///< rounded as the pool will
};

/// The planned bytes of one device.
struct memory_plan {
  std::string device;
  std::vector<plan_item> items;
  std::array<std::size_t, purpose_count> by_purpose{};
  std::size_t total = 0;
  std::size_t kv_pages = 0;
  offset_plan activations;
  std::vector<bool> streamed; ///< by group: loaded anew for every step
  std::size_t ring_slots = 0; ///< of the streaming ring; 0: nothing is streamed
  std::size_t slot_bytes = 0; ///< of each: the largest streamed group
};

/// Makes a plan. It is exact: the high-water mark of a run that follows the plan equals `total`.
///
/// With a budget that does not hold all groups, as many streamable ones stay as fit beside a ring of two slots, and the
/// streamed ones are spread evenly between them, so that each load has the compute of its neighbours to hide behind.
/// When even that does not fit, the plan is the smallest one, and exceeds the budget.
[[nodiscard]] memory_plan make_plan(const plan_input& input);

/// What a replica adds to the plan of its `original`: everything but the weights, and a ring of as many slots. The
/// groups and the budget of `input` are not looked at.
[[nodiscard]] memory_plan make_replica_plan(const plan_input& input, const memory_plan& original);

/// Throws `error` (over_budget) with the missing bytes, the largest purposes and the smallest budget that works.
/// `set_by`: what limits the device, where no budget was given.
void require_fits(const memory_plan& plan, std::size_t budget, std::string_view set_by = {});

} // namespace tropilla
