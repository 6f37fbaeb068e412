// A shell around token_drawer.
#include "actors/sampler.hpp"

#include "src/sampling/draw.hpp"

namespace tropilla::cast {

struct sampler_state {
  static inline const char* actor_name = "sampler";

  sampler_state(sampler_actor::pointer, tracer* t) : trace(t) {
    if (trace)
      row = trace->make_row("actor sampler");
  }

  sampler_actor::behavior_type behaviour() {
    return {
        [this](const draw_token& m) -> caf::result<token_drawn> {
          const trace_span span(trace, row, "draw_token", "index", static_cast<std::int64_t>(m.index));
          return token_drawn{drawer.draw({m.logits, m.vocabulary}, m.sampling, m.index)};
        },
    };
  }

  tracer* trace;
  tracer::row row = 0;
  token_drawer drawer;
};

sampler_actor spawn_sampler(caf::actor_system& system, tracer* trace) {
  return spawn<sampler_actor, sampler_state>(system, trace);
}

} // namespace tropilla::cast
