// One reply, from its first piece to its statistics.
#include "src/app/reply.hpp"

#include "memory/arbiter.hpp"
#include "src/app/figures.hpp"
#include "src/app/text.hpp"

#include <fmt/format.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

std::string how_it_ended(const generation_statistics& s) {
  switch (s.finish) {
  case finish_reason::length:
    return " (-n reached)";
  case finish_reason::context:
    return " (context full)";
  case finish_reason::cancelled:
    return " (stopped)";
  case finish_reason::stop:
    break;
  }
  return "";
}

json token_json(const token_logprob& t, const runtime& rt) {
  return {{"id", t.id}, {"text", rt.detokenize(std::span(&t.id, 1), true)}, {"logprob", t.logprob}};
}

json output_json(const reply_output& output, const runtime& rt) {
  json out = {{"text", output.text}, {"finish", to_string(output.finish)}, {"ids", output.ids}};
  for (const auto& of_token : output.logprobs) {
    auto token = token_json(of_token.front(), rt);
    token["top"] = json::array();
    for (const auto& t : std::span(of_token).subspan(1))
      token["top"].push_back(token_json(t, rt));
    out["logprobs"].push_back(std::move(token));
  }
  return out;
}

} // namespace

finished_reply read_reply(generation& reply, const reply_options& options, surroundings& around,
                          const std::function<void(const piece&)>& show, unanswered program) {
  const bool quits = program == unanswered::quits;
  const interrupts::scope on_interrupt(
      around.signals,
      [&](int press) {
        if (press == 1)
          reply.cancel();
        else if (quits)
          interrupts::quit();
      },
      quits ? interrupts::patience : std::chrono::seconds{});
  finished_reply result;
  result.outputs.resize(options.generation.outputs);
  result.seed = options.generation.sampling.seed;
  result.seed_drawn = options.seed_drawn;
  while (const auto piece = reply.next()) {
    if (result.first_token_seconds == 0)
      result.first_token_seconds = around.clock.seconds();
    reply_output& output = result.outputs.at(piece->output);
    if (piece->id >= 0)
      output.ids.push_back(piece->id);
    if (!piece->logprobs.empty())
      output.logprobs.push_back(piece->logprobs);
    output.text += piece->text;
    if (piece->finish)
      output.finish = *piece->finish;
    show(*piece);
  }
  result.statistics = reply.statistics();
  return result;
}

std::string summary_line(const finished_reply& reply, const runtime& rt) {
  const generation_statistics& s = reply.statistics;
  std::string line = fmt::format("{} tokens in, {} out{}", s.prompt_tokens, s.generated_tokens, how_it_ended(s));
  std::string_view separator = "; ";
  for (const auto& [name, rate] : {std::pair{"prefill", s.prefill_rate()}, std::pair{"decode", s.decode_rate()}})
    if (rate > 0) {
      line += fmt::format("{}{} {}", separator, name, format_rate(rate));
      separator = ", ";
    }
  if (reply.first_token_seconds > 0)
    line += fmt::format("; first token after {:.2f} s", reply.first_token_seconds);
  if (reply.seed_drawn)
    line += fmt::format("; seed {}", reply.seed);
  return line + fmt::format("; memory: {} planned, {} peak", format_bytes(rt.plan().total_bytes),
                            format_bytes(peak_bytes(rt)));
}

std::string details(const finished_reply& reply, const runtime& rt) {
  const generation_statistics& s = reply.statistics;
  const model_facts& model = rt.model();
  std::string text = fmt::format("model    {} ({}, {} parameters, {})\n", escape(model.name), escape(model.type),
                                 format_count(model.parameters), format_bytes(model.file_bytes));
  text += fmt::format("compute  {} threads, {}", rt.threads(), rt.isa());
  if (s.decode_seconds > 0)
    text += fmt::format("; overhead {:.1f}% of decoding", s.decode_overhead() * 100);
  text += "\n";
  text += fmt::format("time     prefill {:.3f} s ({} of {} tokens reused), decode {:.3f} s\n", s.prefill_seconds,
                      s.reused_tokens, s.prompt_tokens, s.decode_seconds);
  if (s.prefill_seconds + s.decode_seconds > 0)
    text += fmt::format("overlap  {:.2f} = max(load {:.3f} s, compute {:.3f} s) / elapsed {:.3f} s\n",
                        s.overlap_efficiency(), s.prefill_load_seconds + s.load_seconds,
                        s.prefill_compute_seconds + s.compute_seconds, s.prefill_seconds + s.decode_seconds);
  for (const memory_report& m : rt.memory())
    text += fmt::format("memory   {}: budget {}, in use {}, peak {}\n", m.device, format_bytes(m.budget_bytes),
                        format_bytes(m.in_use_bytes), format_bytes(m.peak_bytes));
  text += fmt::format("process  {} resident at most", format_bytes(peak_resident_bytes()));
  return text;
}

nlohmann::ordered_json to_json(const finished_reply& reply, const runtime& rt) {
  const generation_statistics& s = reply.statistics;
  json out = output_json(reply.outputs.front(), rt);
  if (reply.outputs.size() > 1)
    for (const reply_output& o : reply.outputs)
      out["outputs"].push_back(output_json(o, rt));
  const json figures = {{"prompt_tokens", s.prompt_tokens},
                        {"reused_tokens", s.reused_tokens},
                        {"generated_tokens", s.generated_tokens},
                        {"prefill_tok_s", measured(s.prefill_rate())},
                        {"decode_tok_s", measured(s.decode_rate())},
                        {"prefill_s", s.prefill_seconds},
                        {"decode_s", s.decode_seconds},
                        {"compute_s", s.compute_seconds},
                        {"load_s", s.load_seconds},
                        {"prefill_compute_s", s.prefill_compute_seconds},
                        {"prefill_load_s", s.prefill_load_seconds},
                        {"overlap", measured(s.overlap_efficiency())},
                        {"overhead", s.decode_seconds > 0 ? json(s.decode_overhead()) : json()},
                        {"ttft_s", measured(reply.first_token_seconds)},
                        {"seed", reply.seed},
                        {"plan_bytes", rt.plan().total_bytes},
                        {"budget_bytes", rt.plan().budget_bytes},
                        {"peak_bytes", peak_bytes(rt)},
                        {"rss_bytes", peak_resident_bytes()},
                        {"model", rt.model().name},
                        {"type", rt.model().type},
                        {"threads", rt.threads()},
                        {"isa", rt.isa()}};
  out.update(figures);
  return out;
}

} // namespace tropilla::app
