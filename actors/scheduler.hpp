/// Admits requests and drives their steps: compute, sample, emit.
#pragma once

#include "actors/request_messages.hpp"
#include "actors/role.hpp"
#include "actors/step_messages.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

namespace tropilla::cast {

struct scheduler_setup {
  std::shared_ptr<batcher> batching; ///< survives the actor: its successor goes on where it stood
  std::size_t vocabulary = 0;
  std::shared_ptr<const role<compute_actor>> compute; ///< of the device with the first layers
  std::shared_ptr<const role<sampler_actor>> sampler;
  tracer* trace = nullptr;
  /// The scheduler watches the supervisors. `get`: the supervisor, or none yet. `replace` spawns another; it gives none
  /// when the runtime closes.
  struct watched_supervisor {
    std::function<caf::actor()> get, replace;
  };
  std::vector<watched_supervisor> supervisors{};
  /// Counts up while anything is read or computed, whatever it is.
  std::function<std::uint64_t()> progress = [] { return std::uint64_t{0}; };
  /// Ends compute and the sampler, for their supervisors to replace.
  std::function<void()> end_members = [] {};
  std::chrono::nanoseconds between_looks = std::chrono::seconds(5); ///< at `progress`, while an answer is waited for
  logger log{};                                                     ///< of requests
  logger supervisor_log{};                                          ///< of supervisors that are replaced
};

/// When an answer is waited for and nothing was read or computed between the looks for 30 s (six times
/// `between_looks`), all requests fail with a sentence that says what was waited for, and compute and the sampler are
/// ended: an unknown fault is an error and no hang.
[[nodiscard]] scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup);

} // namespace tropilla::cast
