/// Watches the cast. Those who bring weights (memory manager, loader, prefetcher) are replaced when one of them ends
/// unexpectedly, and the step at hand goes on. Whoever else ends is reported to the scheduler, which fails the requests
/// that need it.
#pragma once

#include "actors/messages.hpp"

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace tropilla::cast {

/// Those who bring weights. Replaced together: they hold nothing that can't be had again, and know each other.
struct weight_crew {
  memory_manager_actor memory_manager;
  loader_actor loader;
  prefetcher_actor prefetcher;
};

/// The crew of the moment, for whoever has to end it after the supervisor ended.
class crew_on_duty {
public:
  void set(weight_crew crew) {
    const std::lock_guard lock(mutex_);
    crew_ = std::move(crew);
  }
  [[nodiscard]] weight_crew get() const {
    const std::lock_guard lock(mutex_);
    return crew_;
  }

private:
  mutable std::mutex mutex_;
  weight_crew crew_;
};

struct supervisor_setup {
  std::vector<std::pair<std::string, caf::actor>> members; ///< by name, all but the crew
  scheduler_actor scheduler;
  compute_actor compute;
  std::shared_ptr<const weight_arrangement> weights;
  std::shared_ptr<crew_on_duty> crew; ///< with the first crew in it
  /// Spawns a crew for an arrangement; groups in `kept` are not fetched. Throws `error`. Outlives the actor.
  std::function<weight_crew(const std::shared_ptr<const weight_arrangement>& weights, const std::vector<lease>& kept)>
      hire;
};

[[nodiscard]] supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup);

} // namespace tropilla::cast
