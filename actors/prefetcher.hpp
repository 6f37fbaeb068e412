/// Decides which weight groups are fetched when, for one device.
#pragma once

#include "actors/messages.hpp"
#include "src/trace/trace.hpp"

#include <cstddef>
#include <vector>

namespace tropilla::cast {

struct prefetcher_setup {
  std::string device;
  const llama_layout* layout = nullptr; ///< outlives the actor
  memory_manager_actor memory;
  loader_actor loader;
  tracer* trace = nullptr;
  std::vector<bool> streamed; ///< by group
  std::size_t ring_slots = 0;
  std::size_t slot_bytes = 0;
};

/// Starts at once, in the order in which a step needs the groups, a few in flight. Groups that stay are fetched once;
/// streamed ones pass through the ring, in the order of need and round again, each until compute gives it back.
[[nodiscard]] prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup);

} // namespace tropilla::cast
