/// Watches the cast and replaces members that end unexpectedly, by `restart_rules`. When a member of the weight
/// pipeline (memory manager, loader, prefetcher) ends, all three are replaced, and the step in flight goes on; when
/// compute ends, it is replaced with them, and the step is computed again; a scheduler takes over the batch of the one
/// before. A member that ends again and again without anything being computed between is not replaced any more: what
/// needs it fails with the reason.
#pragma once

#include "actors/request_messages.hpp"
#include "actors/role.hpp"
#include "actors/step_messages.hpp"
#include "actors/supervision_messages.hpp"
#include "src/log/log.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace tropilla::cast {

/// The pipeline of the moment and its placement, for those that end it, or take over, after the supervisor ended.
class current_pipeline {
public:
  void set(weight_pipeline pipeline, std::shared_ptr<const weight_placement> placement) {
    const std::lock_guard lock(mutex_);
    pipeline_ = std::move(pipeline);
    placement_ = std::move(placement);
  }
  [[nodiscard]] weight_pipeline get() const {
    const std::lock_guard lock(mutex_);
    return pipeline_;
  }
  [[nodiscard]] std::shared_ptr<const weight_placement> placement() const {
    const std::lock_guard lock(mutex_);
    return placement_;
  }

private:
  mutable std::mutex mutex_;
  weight_pipeline pipeline_;
  std::shared_ptr<const weight_placement> placement_;
};

/// A member of the cast that is not one device's: how it is found, replaced, and given up.
struct supervised_member {
  std::string name;
  std::function<caf::actor()> get;
  std::function<caf::actor()> replace;
  std::function<void(const error&)> give_up{}; ///< may be empty
};

struct supervisor_setup {
  std::vector<supervised_member> members; ///< that no other supervisor watches
  std::shared_ptr<const role<scheduler_actor>> scheduler;
  std::shared_ptr<role<compute_actor>> compute;
  std::shared_ptr<current_pipeline> pipeline;
  std::shared_ptr<const std::atomic<std::uint64_t>> progress; ///< counts jobs that were computed
  /// Spawns a pipeline for a placement; groups in `kept` are not loaded. Throws `error`. Outlives the actor.
  std::function<weight_pipeline(const std::shared_ptr<const weight_placement>& placement,
                                const std::vector<lease>& kept)>
      spawn_pipeline;
  /// Spawns another compute, over `pipeline`.
  std::function<void()> spawn_compute;
  std::string device{}; ///< that pipeline and compute serve; for names in the log
  logger log{};
};

[[nodiscard]] supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup);

} // namespace tropilla::cast
