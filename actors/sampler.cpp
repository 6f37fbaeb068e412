// A shell around token_drawer.
#include "actors/sampler.hpp"

#include "src/sampling/draw.hpp"
#include "src/sampling/logprobs.hpp"

namespace tropilla::cast {

struct sampler_state {
  static constexpr const char* actor_name = "sampler";

  sampler_state(sampler_actor::pointer, tracer* t) : trace(t) {
    if (trace)
      track = trace->make_track("actor sampler");
  }

  sampler_actor::behavior_type behaviour() {
    return {
        [this](const draw_tokens& m) -> caf::result<tokens_drawn> {
          const trace_span span(trace, track, "draw_tokens", "tokens", static_cast<std::int64_t>(m.jobs.size()));
          const auto& from = m.from.output;
          tokens_drawn out;
          for (const auto& job : m.jobs)
            out.tokens.push_back(
                from.logits != nullptr
                    ? draw({from.logits + job.row * m.vocabulary, m.vocabulary}, *job.of)
                    : draw({from.candidates + job.row * from.candidates_of_row, from.candidates_of_row}, *job.of));
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

  /// Of the logits that decide: a row of its own, whose tokens are in their order.
  drawn_token draw(std::span<const candidate> candidates, const sequence& s) {
    deciding.clear();
    for (const auto& c : candidates)
      deciding.push_back(c.logit);
    const token_id place = drawer.draw(deciding, s.sampling, s.generated);
    return {place < 0 ? place : candidates[static_cast<std::size_t>(place)].token};
  }

  std::vector<float> deciding;
  tracer* trace;
  tracer::track track = 0;
  token_drawer drawer;
};

sampler_actor spawn_sampler(caf::actor_system& system, tracer* trace) {
  return spawn<sampler_actor, sampler_state>(system, trace);
}

} // namespace tropilla::cast
