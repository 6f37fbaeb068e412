/// Brings one device's weight groups into memory: leases, loads and delivers them as `weight_ring` says.
#pragma once

#include "actors/weight_messages.hpp"
#include "src/log/log.hpp"
#include "src/placement/placement.hpp"
#include "src/trace/trace.hpp"

#include <atomic>
#include <cstddef>
#include <vector>

namespace tropilla::cast {

struct prefetcher_setup {
  std::string device;
  std::shared_ptr<const weight_placement> placement;
  memory_manager_actor memory;
  loader_actor loader;
  tracer* trace = nullptr;
  std::shared_ptr<std::atomic<std::size_t>> slots; ///< tells others how many slots the ring has
  std::vector<lease> kept;                         ///< groups that compute has: they are not fetched. Given up at once
  logger log{};
};

/// Starts at once, in the order in which a step needs the groups. `weight_ring` decides: resident groups are loaded
/// once, a few at a time; streamed ones pass through the ring, in the order of need and round again, each until compute
/// gives it back. `shrink_ring` takes slots from the ring, down to two.
[[nodiscard]] prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup);

} // namespace tropilla::cast
