/// Runs steps on one device, as far as their weights are there.
#pragma once

#include "actors/messages.hpp"
#include "src/trace/trace.hpp"

namespace tropilla::cast {

struct compute_setup {
  const llama_layout* layout = nullptr; ///< these outlive the actor
  const llama_workspace* space = nullptr;
  device* dev = nullptr;
  prefetcher_actor prefetcher;
  tracer* trace = nullptr;
};

/// Asks its prefetcher for every group once and keeps the leases. A step runs in as few jobs as the arriving weights
/// allow: one, when all are resident.
[[nodiscard]] compute_actor spawn_compute(caf::actor_system& system, compute_setup setup);

} // namespace tropilla::cast
