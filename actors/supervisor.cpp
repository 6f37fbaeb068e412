// Monitors, replaces and reports.
#include "actors/supervisor.hpp"

#include "actors/restart_limit.hpp"

#include <algorithm>
#include <deque>
#include <optional>

namespace tropilla::cast {

struct supervisor_state {
  static constexpr const char* actor_name = "supervisor";

  supervisor_state(supervisor_actor::pointer s, supervisor_setup given) : self(s), setup(std::move(given)) {}

  supervisor_actor::behavior_type behaviour() {
    for (const auto& m : setup.members)
      watch(m, m.get());
    watch_pipeline();
    watch_compute();
    return {
        [this](const query_health&) -> caf::result<cast_health> { return health; },
        [this](const change_weights& m) -> caf::result<weights_changed> { return change(m.next); },
    };
  }

  /// Counts a new start; false when there were too many without a job being computed between.
  bool may_restart(const std::string& name, const std::string& reason) {
    if (!restarts.allows_another(setup.progress->load()))
      return false;
    ++health.restarts;
    setup.log.warning("the {} ended unexpectedly ({}) and is replaced: start {} of {} without anything computed", name,
                      reason, restarts.starts(), restart_limit::max);
    return true;
  }

  [[nodiscard]] std::string name_here(const std::string& name) const { return name + " of " + setup.device; }

  void report(const std::string& name, const std::string& reason) {
    setup.log.error("the {} ended unexpectedly ({}) and is not replaced any more: open the runtime again", name,
                    reason);
    health.down.push_back(name + ": " + reason);
    tell(self, setup.scheduler->get(), member_down{name, reason});
  }

  /// Weight pipeline and compute get no successors: clients that wait for weights, now or later, get the reason.
  void give_up(const std::string& name, const std::string& reason) {
    report(name, reason);
    given_up.emplace(errc::device_failed,
                     "the " + name + " ended unexpectedly (" + reason + "); open the runtime again");
    setup.compute->close(given_up);
    send_exit(setup.compute->get());
    for (auto& c : std::exchange(changes, {}))
      c.promise.deliver(to_caf(*given_up));
  }

  // -- sampler and scheduler ------------------------------------------------------------------------------------------

  void watch(const supervised_member& m, const caf::actor& holder) {
    others.watch(self, holder, [this, m](const caf::error& reason) {
      if (!may_restart(m.name, render(reason))) {
        report(m.name, render(reason));
        if (m.give_up)
          m.give_up(error(errc::device_failed, "the " + m.name + " ended unexpectedly (" + render(reason) +
                                                   ") again and again; open the runtime again"));
        return;
      }
      watch(m, m.replace());
      tell(self, setup.scheduler->get(), member_replaced{});
    });
  }

  // -- pipeline and compute
  // -----------------------------------------------------------------------------------------------

  void watch_pipeline() {
    const auto pipeline = setup.pipeline->get();
    on_duty = 3;
    const auto watch_member = [this](const char* name, const caf::actor& member) {
      others.watch(self, member, [this, name](const caf::error& reason) { pipeline_member_down(name, reason); });
    };
    watch_member("memory manager", caf::actor_cast<caf::actor>(pipeline.memory_manager));
    watch_member("loader", caf::actor_cast<caf::actor>(pipeline.loader));
    watch_member("prefetcher", caf::actor_cast<caf::actor>(pipeline.prefetcher));
  }

  void watch_compute() {
    others.watch(self, caf::actor_cast<caf::actor>(setup.compute->get()),
                 [this](const caf::error& reason) { compute_down(reason); });
  }

  void pipeline_member_down(const char* name, const caf::error& reason) {
    --on_duty;
    if (given_up)
      return;
    if (exchange || rebuilding) // expected
      return spawn_when_gone();
    if (restarting)
      return;
    if (!may_restart(name_here(name), render(reason)))
      return give_up(name, render(reason));
    restarting = true;
    suspend(setup.pipeline->weights());
  }

  void compute_down(const caf::error& reason) {
    if (given_up)
      return;
    if (!may_restart(name_here("compute"), render(reason)))
      return give_up("compute", render(reason));
    exchange.reset(); // what was kept went with it
    rebuilding = true;
    stop_pipeline();
  }

  caf::typed_response_promise<weights_changed> change(std::shared_ptr<const weight_placement> next) {
    pending_response<weights_changed> promise(self);
    auto later = promise.promise();
    if (given_up) {
      promise.deliver(to_caf(*given_up));
      return later;
    }
    changes.push_back({std::move(next), std::move(promise)});
    if (changes.size() == 1 && !rebuilding)
      suspend(changes.front().next);
    return later;
  }

  void suspend(const std::shared_ptr<const weight_placement>& next) {
    ask(self, setup.compute->get(), suspend_weights{next})
        .then(
            [this](const weights_suspended& m) {
              if (rebuilding)
                return;
              exchange.emplace(m);
              stop_pipeline();
            },
            [](const caf::error&) {}); // compute ended: that is seen to when it is heard of
  }

  /// Compute stands still, or is gone: the pipeline leaves, and its leases come back.
  void stop_pipeline() {
    const auto pipeline = setup.pipeline->get();
    send_exit(pipeline.prefetcher);
    send_exit(pipeline.loader);
    send_exit(pipeline.memory_manager);
    spawn_when_gone();
  }

  void spawn_when_gone() {
    if (on_duty > 0)
      return;
    restarting = false;
    try {
      if (std::exchange(rebuilding, false))
        rebuild();
      else if (exchange)
        go_on(*std::exchange(exchange, std::nullopt));
    } catch (const error& e) {
      give_up("weight pipeline", e.what());
    }
  }

  void spawn_pipeline(const std::shared_ptr<const weight_placement>& weights, const std::vector<lease>& kept) {
    setup.pipeline->set(setup.spawn_pipeline(weights, kept), weights);
    watch_pipeline();
  }

  void rebuild() {
    spawn_pipeline(setup.pipeline->weights(), {});
    setup.spawn_compute();
    watch_compute();
    tell(self, setup.scheduler->get(), member_replaced{});
    if (!changes.empty())
      suspend(changes.front().next);
  }

  void go_on(weights_suspended then) {
    const bool changed = !changes.empty() && changes.front().next == then.next;
    auto weights = changed ? then.next : setup.pipeline->weights();
    if (then.next != weights) // a suspension that was overtaken by a change
      then.kept.clear();
    std::optional<error> refusal;
    try {
      spawn_pipeline(weights, then.kept);
    } catch (const error& e) {
      if (!changed)
        throw;
      refusal = e;
      setup.log.warning("{}: the budget stays as it was: {}", setup.device, e.what());
      weights = setup.pipeline->weights();
      then.kept.clear();
      spawn_pipeline(weights, {});
    }
    const auto there = std::ranges::count_if(then.kept, [](const lease& l) { return static_cast<bool>(l); });
    setup.log.debug("{}: {} of {} weight groups are kept, the others are read", setup.device, there,
                    weights->layout.groups.size());
    tell(self, setup.compute->get(), resume_weights{weights, setup.pipeline->get(), std::move(then.kept)});
    if (!changed)
      return;
    if (refusal)
      changes.front().promise.deliver(to_caf(*refusal));
    else
      changes.front().promise.deliver(weights_changed{});
    changes.pop_front();
    if (!changes.empty())
      suspend(changes.front().next);
  }

  struct change_in_line {
    std::shared_ptr<const weight_placement> next;
    pending_response<weights_changed> promise;
  };

  supervisor_actor::pointer self;
  supervisor_setup setup;
  watcher others;
  cast_health health;
  std::size_t on_duty = 0;                   ///< of the pipeline, how many are not known to be down
  std::optional<weights_suspended> exchange; ///< compute stands still, the pipeline is leaving
  bool rebuilding = false;                   ///< compute is gone, the pipeline is leaving
  bool restarting = false;                   ///< compute was asked to stand still because one of the pipeline is gone
  restart_limit restarts;
  std::deque<change_in_line> changes; ///< the first is under way
  std::optional<error> given_up;      ///< why there are no successors
};

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup) {
  return spawn<supervisor_actor, supervisor_state>(system, std::move(setup));
}

} // namespace tropilla::cast
