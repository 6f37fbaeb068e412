// Predicts each division's decode, and words the ends of what a plan's memory flows between.
#include "app/division_forecast.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

std::optional<double> rate_of(const division_report& d, std::size_t sequences, step_cost cost,
                              const machine_speed& speed) {
  cost.streamed_bytes = d.streamed_bytes;
  const auto predicted = predict_decode(cost, speed, sequences);
  return predicted ? std::optional(predicted->tokens_per_second) : std::nullopt;
}

flow_prediction::crossing find_crossing(std::size_t tokens, const plan_report& plan, const step_cost& cost,
                                        const machine_speed& speed) {
  const std::size_t tokens_on_pages = round_up(tokens, plan.kv_page_tokens);
  // Only sequences that have pages are computed.
  const auto rate = [&](const division_report& d, std::size_t wanted) {
    const std::size_t sequences = std::min(wanted, d.kv_tokens / tokens_on_pages);
    return sequences > 0 ? rate_of(d, sequences, cost, speed).value_or(0) : 0;
  };
  const auto first =
      std::ranges::find_if(plan.divisions, [&](const auto& d) { return d.kv_tokens >= tokens_on_pages; });
  for (std::size_t n = 2; n <= plan.sequences; ++n)
    for (auto d = first; d != plan.divisions.end(); ++d)
      if (rate(*d, n) > rate(*first, n))
        return {tokens, n};
  return {tokens, std::nullopt};
}

std::string describe(const division_report& d) {
  return d.streamed_bytes > 0 ? format_bytes(d.streamed_bytes) + " streamed per step" : "all weights in memory";
}

std::string describe(const flow_prediction::crossing& c) {
  return fmt::format("{} sequences of {} tokens", *c.sequences, c.tokens);
}

} // namespace

flow_prediction predict_flow(const plan_report& plan, const step_cost& cost, const machine_speed& speed) {
  flow_prediction out;
  for (const auto& d : plan.divisions)
    out.one_sequence.push_back(rate_of(d, 1, cost, speed));
  for (const std::size_t tokens : {plan.context, std::max<std::size_t>(plan.context / 4, 1)})
    out.crossings.push_back(find_crossing(tokens, plan, cost, speed));
  return out;
}

std::string describe_ends(const plan_report& plan) {
  if (plan.divisions.size() < 2)
    return {};
  const auto &few = plan.divisions.front(), &many = plan.divisions.back();
  return fmt::format("Memory flows between two ends: {} tokens with KV pages and {},\nor {} tokens and {}.\n",
                     few.kv_tokens, describe(few), many.kv_tokens, describe(many));
}

std::string describe(const flow_prediction& flow, const plan_report& plan) {
  if (plan.divisions.size() < 2 || !flow.one_sequence.front() || !flow.one_sequence.back())
    return {};
  const auto line = fmt::format("           one sequence: {} with pages for {} tokens, {} with pages for {}",
                                describe_rate(*flow.one_sequence.front()), plan.divisions.front().kv_tokens,
                                describe_rate(*flow.one_sequence.back()), plan.divisions.back().kv_tokens);
  if (plan.sequences < 2)
    return line + "\n";
  std::string crossings;
  for (const auto& c : flow.crossings)
    if (c.sequences)
      crossings += fmt::format("{}{}", crossings.empty() ? "from " : " or ", describe(c));
  return line + ";\n           " +
         (crossings.empty() ? fmt::format("for up to {} sequences, more pages give no more tok/s\n", plan.sequences)
                            : crossings + " on, more pages give more tok/s\n");
}

} // namespace tropilla::app
