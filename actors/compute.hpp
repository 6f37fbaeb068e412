/// Runs steps on one device, as far as their weights are there.
#pragma once

#include "actors/role.hpp"
#include "actors/step_jobs.hpp"
#include "actors/step_messages.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"

namespace tropilla::cast {

struct compute_setup {
  std::shared_ptr<const weight_placement> placement;
  const llama_workspace* space = nullptr; ///< these outlive the actor
  device* dev = nullptr;
  weight_pipeline pipeline;
  std::shared_ptr<transfer_meter> meter;
  tracer* trace = nullptr;
  std::shared_ptr<std::atomic<std::uint64_t>> progress{}; ///< counts its jobs
  std::vector<lease> kept{};                              ///< groups that are there already, by index
  std::size_t number = 0;                                 ///< of the device, in the order of the layers
  std::shared_ptr<host_copies> copies{};                  ///< outlives what this answers
  /// The compute of the device that goes on with the step after this one; null: none does.
  std::shared_ptr<const role<compute_actor>> next_compute{};
  const device* next_device = nullptr; ///< that device; outlives the actor
  /// Where other devices have shares of the same layers, of the first of them: their group, and the computes of the
  /// others by rank.
  std::shared_ptr<device_group> group{};
  std::vector<std::shared_ptr<const role<compute_actor>>> others{};
  logger log{};
};

/// Asks its prefetcher once for each group that stays and keeps the leases; for streamed groups in every step, and
/// gives each back when its job is done. A step runs in as few jobs as the arriving weights allow: one, when all stay.
///
/// Each of several devices computes its layers and hands the step on to the next one. Where devices share layers, the
/// first has the others compute each step at the same time, and ends it when all have; one that can't compute it fails
/// the group, so that no device waits for it.
///
/// A prefetcher that ends is no failure: compute waits for its supervisor's word, and goes on where the step stands.
/// When compute itself ends, a job may still be in flight: its successor begins no step before that is done.
[[nodiscard]] compute_actor spawn_compute(caf::actor_system& system, compute_setup setup);

} // namespace tropilla::cast
