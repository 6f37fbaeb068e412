/// Reads and packs weight groups, in the order in which they are asked for.
#pragma once

#include "actors/weight_messages.hpp"
#include "src/io/weight_loader.hpp"
#include "src/placement/placement.hpp"

#include <functional>
#include <memory>
#include <vector>

namespace tropilla::cast {

struct loader_setup {
  std::shared_ptr<const weight_placement> placement;
  lease staging;
  weight_loader_setup loader; ///< its layout, shape, read buffers and `is_streamed` are of the above
  std::function<void(const load_progress&)> on_progress; ///< called per group that stays; may be empty
  std::vector<lease> kept; ///< groups that compute kept: they count as done. Given up at once
};

/// A failure to open a file answers the request that needed it.
[[nodiscard]] loader_actor spawn_loader(caf::actor_system& system, loader_setup setup);

} // namespace tropilla::cast
