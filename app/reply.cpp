// Reads one reply, from its first piece to its statistics.
#include "app/reply.hpp"

#include "app/figures.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <span>

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

constexpr std::size_t text_of_token = 16; // bytes: a few times what words take, for texts that grow by doubling

/// JSON text that is passed on as soon as there is much of it.
class json_text {
public:
  explicit json_text(const std::function<void(std::string_view)>& write) : write_(write) {}

  void add(std::string_view text) {
    constexpr std::size_t much = std::size_t{1} << 16;
    text_ += text;
    if (text_.size() >= much)
      flush();
  }
  void add_quoted(std::string_view text) { add(json(text).dump(-1, ' ', false, json::error_handler_t::replace)); }
  void flush() {
    write_(text_);
    text_.clear();
  }

private:
  const std::function<void(std::string_view)>& write_;
  std::string text_;
};

void add_logprob(json_text& out, const token_logprob& t, const runtime& rt) {
  out.add(fmt::format(R"({{"id": {}, "text": )", t.id));
  out.add_quoted(rt.detokenize(std::span(&t.id, 1), true));
  out.add(fmt::format(R"(, "logprob": {})", json(t.logprob).dump()));
}

/// Adds one line for each token.
void add_logprobs(json_text& out, const reply_output& output, const runtime& rt) {
  auto rest = std::span(output.logprobs);
  std::string_view before = "[\n    ";
  for (const std::size_t count : output.logprobs_of_token) {
    out.add(before);
    before = ",\n    ";
    add_logprob(out, rest.front(), rt);
    std::string_view separator = ", \"top\": [";
    for (const auto& t : rest.first(count).subspan(1)) {
      out.add(separator);
      separator = ", ";
      add_logprob(out, t, rt);
      out.add("}");
    }
    out.add(count == 1 ? ", \"top\": []}" : "]}");
    rest = rest.subspan(count);
  }
  out.add("\n  ]");
}

/// The entries of an object, without its braces.
void add_output(json_text& out, const reply_output& output, const runtime& rt) {
  out.add("\"text\": ");
  out.add_quoted(output.text);
  out.add(fmt::format(",\n  \"finish\": \"{}\",\n  \"ids\": [", to_string(output.finish)));
  std::string_view separator;
  for (const token_id id : output.ids) {
    out.add(fmt::format("{}{}", separator, id));
    separator = ", ";
  }
  out.add("]");
  if (output.logprobs_of_token.empty())
    return;
  out.add(",\n  \"logprobs\": ");
  add_logprobs(out, output, rt);
}

/// Tokens that each output has at most.
std::size_t max_reply_tokens(const generation_options& options, std::size_t context) {
  return options.context_shift ? options.max_tokens : std::min(options.max_tokens, context);
}

void reserve(reply_output& output, const generation_options& options) {
  constexpr std::size_t much = std::size_t{1} << 17; // tokens; more of them come rarely
  const std::size_t tokens = std::min(options.max_tokens, much);
  output.ids.reserve(tokens);
  if (options.logprobs == 0)
    return;
  output.logprobs.reserve(tokens * (options.logprobs + 1));
  output.logprobs_of_token.reserve(tokens);
}

} // namespace

std::size_t kept_bytes(const generation_options& options, reply_keeps keeps, std::size_t context) {
  if (keeps == reply_keeps::nothing)
    return 0;
  std::size_t of_token = text_of_token, bytes = 0;
  if (keeps == reply_keeps::all)
    of_token += sizeof(token_id) +
                (options.logprobs > 0 ? sizeof(std::uint8_t) + (options.logprobs + 1) * sizeof(token_logprob) : 0);
  if (__builtin_mul_overflow(max_reply_tokens(options, context), options.outputs * of_token, &bytes))
    throw error(errc::invalid_argument,
                "a reply without end can't be kept until it ends: say how many tokens it has at "
                "most, or let it end where the context does");
  return bytes;
}

finished_reply read_reply(generation& reply, const reply_options& options, reply_keeps keeps, command_context& env,
                          const std::function<void(const piece&)>& show, unanswered program) {
  const interrupts::scope on_interrupt(
      env.signals, [&](int) { reply.cancel(); },
      program == unanswered::quits ? interrupts::patience : std::chrono::seconds{});
  finished_reply result;
  result.outputs.resize(options.generation.outputs);
  if (keeps == reply_keeps::all) // lists that grow by doubling would take three times as much for moments
    for (reply_output& output : result.outputs)
      reserve(output, options.generation);
  result.seed = options.generation.sampling.seed;
  result.seed_drawn = options.seed_drawn;
  while (const auto piece = reply.next()) {
    if (result.first_token_seconds == 0)
      result.first_token_seconds = env.clock.seconds();
    reply_output& output = result.outputs.at(piece->output);
    if (keeps != reply_keeps::nothing)
      output.text += piece->text;
    if (keeps == reply_keeps::all && piece->id >= 0)
      output.ids.push_back(piece->id);
    if (keeps == reply_keeps::all && !piece->logprobs.empty()) {
      output.logprobs.insert(output.logprobs.end(), piece->logprobs.begin(), piece->logprobs.end());
      output.logprobs_of_token.push_back(static_cast<std::uint8_t>(piece->logprobs.size()));
    }
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

void write_json(const finished_reply& reply, const runtime& rt, const std::function<void(std::string_view)>& write) {
  const generation_statistics& s = reply.statistics;
  json_text out(write);
  out.add("{\n  ");
  add_output(out, reply.outputs.front(), rt);
  if (reply.outputs.size() > 1) {
    std::string_view before = ",\n  \"outputs\": [{";
    for (const reply_output& o : reply.outputs) {
      out.add(before);
      before = ", {";
      add_output(out, o, rt);
      out.add("}");
    }
    out.add("]");
  }
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
  out.add("," + figures.dump(2, ' ', false, json::error_handler_t::replace).substr(1) + "\n");
  out.flush();
}

} // namespace tropilla::app
