/// Logits to tokens. Holds no state of any sequence: draws depend on the request's seed and the token's index alone.
#pragma once

#include "actors/step_messages.hpp"
#include "src/trace/trace.hpp"

namespace tropilla::cast {

[[nodiscard]] sampler_actor spawn_sampler(caf::actor_system& system, tracer* trace);

} // namespace tropilla::cast
