/// Decides which weight groups are fetched when, for one device.
#pragma once

#include "actors/messages.hpp"
#include "src/trace/trace.hpp"

#include <vector>

namespace tropilla::cast {

struct prefetcher_setup {
  std::string device;
  const llama_layout* layout = nullptr; ///< outlives the actor
  memory_manager_actor memory;
  loader_actor loader;
  tracer* trace = nullptr;
};

/// Starts at once, in the order in which a step needs the groups, a few in flight; keeps what it has fetched.
[[nodiscard]] prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup);

} // namespace tropilla::cast
