// Monitors, asks its rules, and does what they answer.
#include "actors/supervisor.hpp"

#include "actors/open_requests.hpp"
#include "src/schedule/restart_rules.hpp"

#include <algorithm>

namespace tropilla::cast {

struct supervisor_state {
  static constexpr const char* actor_name = "supervisor";

  supervisor_state(supervisor_actor::pointer s, supervisor_setup given)
      : self(s), setup(std::move(given)), rules(setup.device, setup.pipeline->placement()) {}

  supervisor_actor::behavior_type behaviour() {
    for (std::size_t i = 0; i < setup.members.size(); ++i)
      watch_member(i, setup.members[i].get());
    watch_pipeline();
    watch_compute();
    return {
        [this](const query_health&) -> caf::result<cast_health> {
          return cast_health{rules.down(), rules.restarts()};
        },
        [this](const change_placement& m) -> caf::result<placement_changed> {
          auto later = changes.add(self, m);
          perform(rules.change(m.next_placement));
          return later;
        },
    };
  }

  // -- what happened --------------------------------------------------------------------------------------------------

  void watch_member(std::size_t member, const caf::actor& holder) {
    others.watch(self, holder, [this, member](const caf::error& reason) {
      perform(rules.member_ended(member, setup.members[member].name, render(reason), setup.progress->load()));
    });
  }

  void watch_pipeline() {
    const auto pipeline = setup.pipeline->get();
    const auto watch = [this](const char* name, const caf::actor& member) {
      others.watch(self, member, [this, name](const caf::error& reason) {
        perform(rules.pipeline_member_ended(name, render(reason), setup.progress->load()));
      });
    };
    watch("memory manager", caf::actor_cast<caf::actor>(pipeline.memory_manager));
    watch("loader", caf::actor_cast<caf::actor>(pipeline.loader));
    watch("prefetcher", caf::actor_cast<caf::actor>(pipeline.prefetcher));
  }

  void watch_compute() {
    others.watch(self, caf::actor_cast<caf::actor>(setup.compute->get()), [this](const caf::error& reason) {
      perform(rules.compute_ended(render(reason), setup.progress->load()));
    });
  }

  // -- what to do -----------------------------------------------------------------------------------------------------

  void perform(restart_rules::actions todo) {
    for (auto& each : todo)
      std::visit([this](auto& a) { act(a); }, each);
  }

  void act(const restart_rules::log_restart& a) const {
    setup.log.warning("the {} ended unexpectedly ({}) and is replaced: start {} of {} without anything computed",
                      a.name, a.reason, a.start, restart_limit::max);
  }

  void act(const restart_rules::replace_member& a) { watch_member(a.member, setup.members[a.member].replace()); }

  void act(const restart_rules::tell_replaced&) { tell(self, setup.scheduler->get(), member_replaced{}); }

  void act(const restart_rules::tell_down& a) {
    setup.log.error("the {} ended unexpectedly ({}) and is not replaced any more: open the runtime again", a.name,
                    a.reason);
    tell(self, setup.scheduler->get(), member_down{a.name, a.reason});
  }

  void act(const restart_rules::give_up_member& a) {
    if (const auto& give_up = setup.members[a.member].give_up)
      give_up(a.why);
  }

  /// Clients that wait for weights, now or later, get the reason.
  void act(const restart_rules::close_compute& a) {
    setup.compute->close(a.why);
    send_exit(setup.compute->get());
  }

  void act(const restart_rules::suspend_compute& a) {
    ask(self, setup.compute->get(), suspend_compute{placement_of(a.next_placement)})
        .then([this](const compute_suspended& m) { perform(rules.suspended(m.next_placement, m.kept)); },
              [](const caf::error&) {}); // compute ended: that is seen to when it is heard of
  }

  void act(const restart_rules::stop_pipeline&) {
    const auto pipeline = setup.pipeline->get();
    send_exit(pipeline.prefetcher);
    send_exit(pipeline.loader);
    send_exit(pipeline.memory_manager);
  }

  void act(const restart_rules::spawn_pipeline& a) {
    const auto placement = placement_of(a.next_placement);
    try {
      setup.pipeline->set(setup.spawn_pipeline(placement, rules.kept()), placement);
    } catch (const error& e) {
      return perform(rules.spawn_failed(e));
    }
    watch_pipeline();
    perform(rules.pipeline_spawned());
  }

  void act(const restart_rules::spawn_compute&) {
    try {
      setup.spawn_compute();
    } catch (const error& e) {
      return perform(rules.spawn_failed(e));
    }
    watch_compute();
    perform(rules.compute_spawned());
  }

  void act(restart_rules::resume_compute& a) {
    const auto placement = placement_of(a.placement);
    setup.log.debug("{}: {} of {} weight groups are kept, the others are read", setup.device,
                    std::ranges::count_if(a.kept, [](const lease& l) { return static_cast<bool>(l); }),
                    placement->layout.groups.size());
    tell(self, setup.compute->get(), resume_compute{placement, setup.pipeline->get(), std::move(a.kept)});
  }

  void act(const restart_rules::log_refusal& a) {
    setup.log.warning("{}: the budget stays as it was: {}", setup.device, a.why);
  }

  void act(const restart_rules::answer_change& a) {
    if (a.failure)
      changes.answer_first(to_caf(*a.failure));
    else
      changes.answer_first(placement_changed{});
  }

  static std::shared_ptr<const weight_placement> placement_of(const restart_rules::placement& p) {
    return std::static_pointer_cast<const weight_placement>(p);
  }

  supervisor_actor::pointer self;
  supervisor_setup setup;
  restart_rules rules;
  watcher others;
  open_requests<change_placement, placement_changed> changes;
};

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup) {
  return spawn<supervisor_actor, supervisor_state>(system, std::move(setup));
}

} // namespace tropilla::cast
