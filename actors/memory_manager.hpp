/// The arbiter as an actor: a thin shell around `memory_arbiter`, which decides.
#pragma once

#include "actors/memory_messages.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"

#include <memory>
#include <string>

namespace tropilla::cast {

/// Records the grants and returns of a device's bytes until the last copy of the result is gone: events on the track of
/// its memory manager, with the block's offset in the reservation where it has one, and a counter "memory host:0" of
/// the bytes in use by purpose. Not a matter of the actor's, which is replaced while leases come back. `to` outlives
/// it.
[[nodiscard]] std::shared_ptr<void> record_memory(memory_arbiter& arbiter, const std::string& device, tracer& to);

/// Shares the arbiter with the leases that it granted; ends without waiting for them.
[[nodiscard]] memory_manager_actor spawn_memory_manager(caf::actor_system& system,
                                                        std::shared_ptr<memory_arbiter> arbiter, logger log = {});

} // namespace tropilla::cast
