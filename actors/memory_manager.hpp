/// The arbiter as an actor: a thin shell around `memory_arbiter`, which decides.
#pragma once

#include "actors/memory_messages.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"

#include <memory>
#include <string>

namespace tropilla::cast {

/// Where a memory manager records the grants and returns of a device's bytes: events on a track of its own, and a
/// counter "memory host:0" of the bytes in use by purpose.
struct memory_trace {
  tracer* to = nullptr; ///< null: nowhere. Outlives the actor
  std::string device{};
};

/// Shares the arbiter with the leases that it granted; ends without waiting for them.
[[nodiscard]] memory_manager_actor spawn_memory_manager(caf::actor_system& system,
                                                        std::shared_ptr<memory_arbiter> arbiter, logger log = {},
                                                        const memory_trace& trace = {});

} // namespace tropilla::cast
