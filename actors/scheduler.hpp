/// Admits requests and drives their steps: compute, sample, emit.
#pragma once

#include "actors/request_messages.hpp"
#include "actors/role.hpp"
#include "actors/step_messages.hpp"
#include "actors/supervision_messages.hpp"
#include "src/log/log.hpp"
#include "src/placement/memory_flow.hpp"
#include "src/trace/trace.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tropilla::cast {

/// A device that has memory for KV pages.
struct page_device {
  std::string name;           ///< "host:0"
  std::size_t page_bytes = 0; ///< from one page to the next
  std::function<memory_manager_actor()> memory_manager;
  std::function<loader_actor()> loader;
  std::function<supervisor_actor()> supervisor;
  bool commits_later = false; ///< as `memory_request`
  /// Called before an extent is written to: empty, or why there is no memory for it.
  std::function<std::optional<std::string>(const lease&)> commit;
};

/// Reads of all devices so far.
struct read_totals {
  std::uint64_t bytes = 0;
  double seconds = 0; ///< in which something was being read
};

struct scheduler_setup {
  std::shared_ptr<batcher> batching; ///< survives the actor: its successor goes on where it stood
  std::size_t vocabulary = 0;
  std::shared_ptr<const role<compute_actor>> compute; ///< of the device with the first layers
  std::shared_ptr<const role<sampler_actor>> sampler;
  tracer* trace = nullptr;
  std::vector<page_device> devices{}; ///< in the order of the layers
  /// Moves memory between weights and pages; survives the actor, as the batcher does. Null: all pages have bytes.
  std::shared_ptr<memory_flow> flow{};
  /// Starts a move that the batcher wants; `pages_moved` says when one is over.
  std::function<void(std::shared_ptr<page_move>)> move = [](const std::shared_ptr<page_move>&) {};
  std::function<read_totals()> totals = [] { return read_totals{}; };
  /// The scheduler watches the supervisors. `get`: the supervisor, or none yet. `replace` spawns a successor of the one
  /// that ended, unless that has one, and gives the successor; none when the runtime closes.
  struct watched_supervisor {
    std::function<caf::actor()> get;
    std::function<caf::actor(const caf::actor_addr& ended)> replace;
  };
  std::vector<watched_supervisor> supervisors{};
  /// Counts up while anything is read or computed, whatever it is.
  std::function<std::uint64_t()> progress = [] { return std::uint64_t{0}; };
  /// Ends compute and the sampler, for their supervisors to replace.
  std::function<void()> end_members = [] {};
  std::chrono::nanoseconds between_looks = std::chrono::seconds(5); ///< at `progress`, while an answer is waited for
  /// How long nothing is asked for, read or moved before memory that only the next request needs goes back to the
  /// system: a client that reads a reply and answers at once finds it still there.
  std::chrono::nanoseconds idle_after = std::chrono::seconds(30);
  std::function<void()> on_idle = [] {}; ///< called then; must be quick
  logger log{};                          ///< of requests
  logger supervisor_log{};               ///< of supervisors that are replaced
};

/// When an answer is waited for and nothing was read or computed between the looks for 30 s (six times
/// `between_looks`), all requests fail with a sentence that says what was waited for, and compute and the sampler are
/// ended: an unknown fault is an error and no hang.
[[nodiscard]] scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup);

} // namespace tropilla::cast
