/// Describes plans to people: one device's, several devices' together, and what a limit changed.
#pragma once

#include "src/placement/placement_search.hpp"
#include "tropilla/runtime.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace tropilla {

/// The plan of one device under a budget.
[[nodiscard]] plan_report describe(const weight_placement& placement, const run_shape& shape, std::size_t budget);

/// At most 16 of the kinds of division, spread evenly, with the first and the last.
[[nodiscard]] std::vector<division_report> describe(const std::vector<division_figures>& kinds);

/// One report of several devices'. @pre not empty
[[nodiscard]] plan_report add_up(const std::vector<plan_report>& shards);

/// A notice for a budget that is above a limit.
[[nodiscard]] std::string above_limit(std::size_t budget, const memory_limit& limit);

/// What a limit changed, and budgets that are above it: a sentence each.
[[nodiscard]] std::vector<std::string> notices_of_limits(const std::vector<placed_shard>& shards);

} // namespace tropilla
