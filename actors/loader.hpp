/// Reads and packs weight groups, in the order in which they are asked for.
#pragma once

#include "actors/weight_messages.hpp"
#include "src/io/weight_loader.hpp"
#include "src/placement/placement.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace tropilla::cast {

struct loader_setup {
  std::shared_ptr<const weight_placement> placement;
  memory_manager_actor memory;
  std::size_t staging_bytes = 0; ///< that it asks `memory` for; 0: none are needed
  weight_loader_setup loader;    ///< its layout, shape, read buffers and `is_streamed` are of the above
  std::function<void(const load_progress&)> on_progress; ///< called per group that stays; may be empty
  std::vector<lease> kept; ///< groups that compute kept: they count as done. Given up at once
};

/// Asks for its staging bytes at once. Requests wait for them, in their order; when they are refused, all that wait
/// fail with over_budget, and the next request has them asked for again.
///
/// A failure to open a file answers the request that needed it.
[[nodiscard]] loader_actor spawn_loader(caf::actor_system& system, loader_setup setup);

} // namespace tropilla::cast
