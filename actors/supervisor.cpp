// Monitors, replaces and reports.
#include "actors/supervisor.hpp"

#include <chrono>
#include <deque>
#include <optional>

namespace tropilla::cast {
namespace {

// What ends again and again has a cause that a new start does not remove.
constexpr std::size_t most_restarts = 8;
constexpr std::chrono::seconds restart_window{10};

} // namespace

struct supervisor_state {
  static inline const char* actor_name = "supervisor";
  using clock = std::chrono::steady_clock;

  supervisor_state(supervisor_actor::pointer s, supervisor_setup setup) : self(s), with(std::move(setup)) {}

  supervisor_actor::behavior_type behaviour() {
    for (const auto& [name, member] : with.members)
      others.watch(self, member, [this, n = name](const caf::error& reason) { report(n, render(reason)); });
    watch_crew();
    return {
        [this](const query_health&) -> caf::result<cast_health> { return health; },
        [this](const change_weights& m) -> caf::result<weights_changed> { return change(m.next); },
    };
  }

  void report(const std::string& name, const std::string& reason) {
    health.down.push_back(name + ": " + reason);
    if (name != "scheduler")
      tell(self, with.scheduler, member_down{name, reason});
  }

  void watch_crew() {
    const auto crew = with.crew->get();
    on_duty = 3;
    const auto watch = [this](const char* name, const caf::actor& member) {
      others.watch(self, member, [this, name](const caf::error& reason) { crew_member_down(name, reason); });
    };
    watch("memory manager", caf::actor_cast<caf::actor>(crew.memory_manager));
    watch("loader", caf::actor_cast<caf::actor>(crew.loader));
    watch("prefetcher", caf::actor_cast<caf::actor>(crew.prefetcher));
  }

  void crew_member_down(const char* name, const caf::error& reason) {
    --on_duty;
    if (exchange) // expected
      return hire_when_gone();
    if (restarting)
      return;
    const auto now = clock::now();
    while (!restarts.empty() && now - restarts.front() > restart_window)
      restarts.pop_front();
    if (restarts.size() == most_restarts)
      return report(name, render(reason));
    restarts.push_back(now);
    ++health.restarts;
    restarting = true;
    suspend(with.weights);
  }

  // -- another crew
  // -------------------------------------------------------------------------------------------------------

  caf::typed_response_promise<weights_changed> change(std::shared_ptr<const weight_arrangement> next) {
    auto promise = self->make_response_promise<weights_changed>();
    changes.push_back({std::move(next), promise});
    if (changes.size() == 1)
      suspend(changes.front().next);
    return promise;
  }

  void suspend(const std::shared_ptr<const weight_arrangement>& next) {
    ask(self, with.compute, suspend_weights{next})
        .then([this](const weights_suspended& m) { dismiss(m); },
              [this](const caf::error& e) { fail_change(from_caf(e)); });
  }

  /// Compute stands still: the crew leaves, and its leases come back.
  void dismiss(const weights_suspended& m) {
    exchange.emplace(m);
    const auto crew = with.crew->get();
    send_exit(crew.prefetcher);
    send_exit(crew.loader);
    send_exit(crew.memory_manager);
    hire_when_gone();
  }

  void hire_when_gone() {
    if (on_duty > 0)
      return;
    const auto then = *std::exchange(exchange, std::nullopt);
    const bool changed = !changes.empty() && changes.front().next == then.next;
    if (changed)
      with.weights = then.next;
    restarting = false;
    // A suspension that was overtaken by a change may answer for an arrangement that is no more.
    const auto kept = then.next == with.weights ? then.kept : std::vector<lease>{};
    try {
      with.crew->set(with.hire(with.weights, kept));
    } catch (const error& e) {
      report("weight crew", e.what());
      return fail_change(e);
    }
    watch_crew();
    tell(self, with.compute, resume_weights{with.weights, with.crew->get().prefetcher, kept});
    if (!changed)
      return;
    changes.front().promise.deliver(weights_changed{});
    changes.pop_front();
    if (!changes.empty())
      suspend(changes.front().next);
  }

  void fail_change(const error& why) {
    for (auto& c : std::exchange(changes, {}))
      c.promise.deliver(to_caf(why));
  }

  struct change_in_line {
    std::shared_ptr<const weight_arrangement> next;
    caf::typed_response_promise<weights_changed> promise;
  };

  supervisor_actor::pointer self;
  supervisor_setup with;
  watcher others;
  cast_health health;
  std::size_t on_duty = 0;                   ///< of the crew, how many are not known to be down
  std::optional<weights_suspended> exchange; ///< the crew is leaving
  bool restarting = false;
  std::deque<clock::time_point> restarts;
  std::deque<change_in_line> changes; ///< the first is under way
};

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup) {
  return spawn<supervisor_actor, supervisor_state>(system, std::move(setup));
}

} // namespace tropilla::cast
