/// The arbiter as an actor: a thin shell around `memory_arbiter`, which decides.
#pragma once

#include "actors/memory_messages.hpp"
#include "src/log/log.hpp"

#include <memory>

namespace tropilla::cast {

/// Shares the arbiter with the leases that it granted; ends without waiting for them.
[[nodiscard]] memory_manager_actor spawn_memory_manager(caf::actor_system& system,
                                                        std::shared_ptr<memory_arbiter> arbiter, logger log = {});

} // namespace tropilla::cast
