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
  std::vector<bool> streamed; ///< by group
  tracer* trace = nullptr;
};

/// Asks its prefetcher once for each group that stays and keeps the leases; for streamed groups in every step, and
/// gives each back when its job is done. A step runs in as few jobs as the arriving weights allow: one, when all stay.
[[nodiscard]] compute_actor spawn_compute(caf::actor_system& system, compute_setup setup);

} // namespace tropilla::cast
