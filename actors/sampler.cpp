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
          const trace_span span(trace, track, "draw_tokens", "tokens", static_cast<std::int64_t>(m.draws.size()));
          const auto& from = m.from.output;
          tokens_drawn out;
          for (const auto& d : m.draws)
            out.tokens.push_back(from.logits != nullptr
                                     ? draw({from.logits + d.row * m.vocabulary, m.vocabulary}, *d.of)
                                     : draw({from.top_k + d.row * from.k, from.k}, *d.of));
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

  /// Draws among the top-k logits of a row. The drawer returns an index into them.
  drawn_token draw(std::span<const token_logit> top_k, const sequence& s) {
    top_k_logits.clear();
    for (const auto& t : top_k)
      top_k_logits.push_back(t.logit);
    const token_id index = drawer.draw(top_k_logits, s.sampling, s.generated);
    return {index < 0 ? index : top_k[static_cast<std::size_t>(index)].token};
  }

  std::vector<float> top_k_logits;
  tracer* trace;
  tracer::track track = 0;
  token_drawer drawer;
};

sampler_actor spawn_sampler(caf::actor_system& system, tracer* trace) {
  return spawn<sampler_actor, sampler_state>(system, trace);
}

} // namespace tropilla::cast
