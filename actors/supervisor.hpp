/// Watches the cast. What ends unexpectedly is reported to the scheduler, which fails the requests that need it.
#pragma once

#include "actors/messages.hpp"

#include <string>
#include <utility>
#include <vector>

namespace tropilla::cast {

struct supervisor_setup {
  std::vector<std::pair<std::string, caf::actor>> members; ///< by name
  scheduler_actor scheduler;
};

[[nodiscard]] supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_setup setup);

} // namespace tropilla::cast
