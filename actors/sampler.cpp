// A shell around token_drawer.
#include "actors/sampler.hpp"

#include "src/sampling/draw.hpp"
#include "src/sampling/logprobs.hpp"

namespace tropilla::cast {

struct sampler_state {
  static inline const char* actor_name = "sampler";

  sampler_state(sampler_actor::pointer, tracer* t) : trace(t) {
    if (trace)
      row = trace->make_row("actor sampler");
  }

  sampler_actor::behavior_type behaviour() {
    return {
        [this](const draw_tokens& m) -> caf::result<tokens_drawn> {
          const trace_span span(trace, row, "draw_tokens", "tokens", static_cast<std::int64_t>(m.jobs.size()));
          tokens_drawn out;
          for (const auto& job : m.jobs)
            out.tokens.push_back(draw({m.logits + job.row * m.vocabulary, m.vocabulary}, *job.of));
          return out;
        },
    };
  }

  drawn_token draw(std::span<const float> logits, const sequence& s) {
    drawn_token out{drawer.draw(logits, s.sampling, s.generated, s.history)};
    if (const auto n = s.shared->request.options.logprobs; n > 0 && out.token >= 0)
      token_logprobs(logits, out.token, n, out.logprobs);
    return out;
  }

  tracer* trace;
  tracer::row row = 0;
  token_drawer drawer;
};

sampler_actor spawn_sampler(caf::actor_system& system, tracer* trace) {
  return spawn<sampler_actor, sampler_state>(system, trace);
}

} // namespace tropilla::cast
