// Monitors, remembers and reports.
#include "actors/supervisor.hpp"

namespace tropilla::cast {

struct supervisor_state {
  static inline const char* actor_name = "supervisor";

  supervisor_state(supervisor_actor::pointer s, supervisor_setup setup) : self(s), with(std::move(setup)) {}

  supervisor_actor::behavior_type behaviour() {
    for (const auto& [name, member] : with.members)
      others.watch(self, member, [this, n = name](const caf::error& reason) { report(n, render(reason)); });
    return {[this](const query_health&) -> caf::result<cast_health> { return health; }};
  }

  void report(const std::string& name, const std::string& reason) {
    health.down.push_back(name + ": " + reason);
    if (name != "scheduler")
      tell(self, with.scheduler, member_down{name, reason});
  }

  supervisor_actor::pointer self;
  supervisor_setup with;
  watcher others;
  cast_health health;
};

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup) {
  return spawn<supervisor_actor, supervisor_state>(system, std::move(setup));
}

} // namespace tropilla::cast
