/// Decides which weight groups are fetched when, for one device.
#pragma once

#include "actors/messages.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"

#include <atomic>
#include <cstddef>
#include <vector>

namespace tropilla::cast {

struct prefetcher_setup {
  std::string device;
  std::shared_ptr<const weight_placement> weights;
  memory_manager_actor memory;
  loader_actor loader;
  tracer* trace = nullptr;
  std::shared_ptr<std::atomic<std::size_t>> slots; ///< tells others how many slots the ring has
  std::vector<lease> kept;                         ///< groups that compute has: they are not fetched. Given up at once
  logger log{};
};

/// Starts at once, in the order in which a step needs the groups, a few in flight. Groups that stay are fetched once;
/// streamed ones pass through the ring, in the order of need and round again, each until compute gives it back.
///
/// The ring begins with the plan's slots. It grows, within what the budget leaves, while compute waits for groups
/// although loading them takes no longer than computing them: more slots even out what varies. It shrinks again when
/// nobody has waited for many steps, and at once, down to two, when somebody needs the bytes (`shrink_ring`).
[[nodiscard]] prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup);

} // namespace tropilla::cast
