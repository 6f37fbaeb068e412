/// Admits requests and drives their steps: compute, sample, emit.
#pragma once

#include "actors/messages.hpp"
#include "src/trace/trace.hpp"

namespace tropilla::cast {

struct scheduler_setup {
  const tokenizer* tok = nullptr; ///< outlives the actor
  run_shape shape;
  std::size_t vocabulary = 0;
  std::vector<std::byte*> pages; ///< KV page starts
  lease kv;                      ///< what the pages lie in
  compute_actor compute;
  sampler_actor sampler;
  tracer* trace = nullptr;
};

[[nodiscard]] scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup);

} // namespace tropilla::cast
