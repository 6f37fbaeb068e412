// `tropilla plan`: shows every byte of a run before anything loads.
#include "app/command.hpp"

#include "app/division_forecast.hpp"
#include "app/figures.hpp"
#include "app/machine_speed.hpp"
#include "app/table.hpp"
#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct plan_options {
  model_options model;
  bool all = false;
  bool json = false;
  bool no_measure = false;

  void bind(option_binder& b) {
    model.bind(b);
    b.group("Output");
    b.flag({"--all", "", "every line of the plan instead of sums"}, all);
    b.flag({"--json", "", "one object with all lines", "", ", in bytes"}, json);
    b.flag({"--no-measure", "", "no prediction: the same output every time"}, no_measure);
  }
};

/// Lines of one device and purpose, added up, in the order of their first.
struct purpose_sum {
  std::string device, purpose;
  std::size_t parts = 0;
  std::size_t bytes = 0;
};

std::vector<purpose_sum> sums_of(const plan_report& plan) {
  std::vector<purpose_sum> sums;
  for (const plan_line& line : plan.lines) {
    auto sum = std::find_if(sums.begin(), sums.end(),
                            [&](const purpose_sum& s) { return s.device == line.device && s.purpose == line.purpose; });
    if (sum == sums.end())
      sum = sums.insert(sums.end(), {line.device, line.purpose});
    ++sum->parts;
    sum->bytes += line.bytes;
  }
  return sums;
}

/// The cost of a plan's steps, and the machine's speed.
struct forecast {
  step_cost cost;
  machine_speed speed;
  prediction predicted;
  flow_prediction flow;
};

/// Predicts a plan's speed; empty for a plan that can't run.
std::optional<forecast> look_ahead(const plan_options& options, const runtime_config& config, const plan_report& plan) {
  const bool on_host =
      std::ranges::none_of(plan.lines, [](const plan_line& l) { return l.device.starts_with("cuda:"); });
  if (options.no_measure || !plan.refusal.empty() || !on_host) // what is measured is the host's
    return std::nullopt;
  forecast f;
  f.cost = cost_of(config, plan);
  f.speed = measure_machine(config, plan);
  f.predicted = predict(f.cost, f.speed);
  f.flow = predict_flow(plan, f.cost, f.speed);
  return f;
}

json as_json(const forecast& f) {
  json out = {{"decode_tok_s", nullptr},
              {"prefill_tok_s", nullptr},
              {"prefill_tokens", f.cost.max_batch_tokens},
              {"binds", {{"decode", nullptr}, {"prefill", nullptr}}},
              {"read_bytes_s", measured(f.speed.read_bytes)},
              {"memory_bytes_s", measured(f.speed.memory_bytes)},
              {"operations_s", measured(f.speed.operations)}};
  const auto set = [&](const char* pass, const std::optional<pass_prediction>& p) {
    if (!p)
      return;
    out[fmt::format("{}_tok_s", pass)] = p->tokens_per_second;
    out["binds"][pass] = to_string(p->binds);
  };
  set("decode", f.predicted.decode);
  set("prefill", f.predicted.prefill);
  out["more_pages_from"] = json::array();
  for (const auto& c : f.flow.crossings)
    out["more_pages_from"].push_back({{"tokens", c.tokens}, {"sequences", c.sequences ? json(*c.sequences) : json()}});
  return out;
}

json divisions_as_json(const plan_report& plan, const std::optional<forecast>& ahead) {
  json out = json::array();
  for (std::size_t i = 0; i < plan.divisions.size(); ++i) {
    const auto& d = plan.divisions[i];
    json rate;
    if (ahead && ahead->flow.one_sequence[i])
      rate = *ahead->flow.one_sequence[i];
    out.push_back({{"kv_tokens", d.kv_tokens},
                   {"streamed_bytes", d.streamed_bytes},
                   {"total_bytes", d.total_bytes},
                   {"ring_slots", d.ring_slots},
                   {"decode_tok_s", std::move(rate)}});
  }
  return out;
}

json as_json(const device_plan& d) {
  const bool known = !d.limit_set_by.empty();
  return {{"name", d.name},
          {"total_bytes", d.total_bytes},
          {"budget_bytes", d.budget_bytes},
          {"limit_bytes", known ? json(d.limit_bytes) : json()},
          {"limit_set_by", known ? json(d.limit_set_by) : json()}};
}

json as_json(const plan_report& plan, const std::optional<forecast>& ahead) {
  const bool fits = plan.refusal.empty();
  json out = {{"total_bytes", plan.total_bytes},
              {"budget_bytes", plan.budget_bytes},
              {"fits", fits},
              {"left_bytes", fits ? plan.budget_bytes - plan.total_bytes : 0},
              {"context", plan.context},
              {"sequences", plan.sequences},
              {"kv_tokens", plan.kv_tokens},
              {"kv_pages", plan.kv_pages},
              {"max_kv_tokens", plan.max_kv_tokens},
              {"max_kv_pages", plan.max_kv_pages},
              {"kv_page_tokens", plan.kv_page_tokens},
              {"extent_tokens", plan.extent_tokens},
              {"kv_type", plan.kv_type},
              {"weight_bytes", plan.weight_bytes},
              {"residency", plan.residency},
              {"streamed_bytes", plan.streamed_bytes},
              {"ring_slots", plan.ring_slots},
              {"slot_bytes", plan.slot_bytes},
              {"outside_bytes", plan.outside_bytes},
              {"predicted", ahead ? as_json(*ahead) : json()}};
  out["devices"] = json::array();
  for (const device_plan& d : plan.devices)
    out["devices"].push_back(as_json(d));
  out["divisions"] = divisions_as_json(plan, ahead);
  out["purposes"] = json::array();
  for (const purpose_sum& s : sums_of(plan))
    out["purposes"].push_back({{"device", s.device}, {"purpose", s.purpose}, {"parts", s.parts}, {"bytes", s.bytes}});
  out["lines"] = json::array();
  for (const plan_line& line : plan.lines)
    out["lines"].push_back(
        {{"device", line.device}, {"purpose", line.purpose}, {"name", line.name}, {"bytes", line.bytes}});
  return out;
}

table as_table(const plan_report& plan, bool all) {
  table t;
  if (all) {
    t.columns = {{"device"}, {"purpose"}, {"name"}, {"size", true}};
    for (const plan_line& line : plan.lines)
      t.rows.push_back({line.device, line.purpose, line.name, format_bytes(line.bytes)});
    t.rows.push_back({"total", "", "", format_bytes(plan.total_bytes)});
    return t;
  }
  t.columns = {{"device"}, {"purpose"}, {"parts", true}, {"size", true}};
  for (const purpose_sum& s : sums_of(plan))
    t.rows.push_back({s.device, s.purpose, fmt::format("{}", s.parts), format_bytes(s.bytes)});
  t.rows.push_back({"total", "", "", format_bytes(plan.total_bytes)});
  return t;
}

/// The limit of each kind of device: "host" for all of the host's.
std::string limits_of(const plan_report& plan) {
  std::string out;
  std::string_view last;
  for (const device_plan& d : plan.devices) {
    const bool on_host = d.name.starts_with("host:");
    const std::string_view who = on_host ? std::string_view("the host") : d.name;
    if (d.limit_set_by.empty() || who == last)
      continue;
    last = who;
    out += fmt::format("Of {}, {} may be used, set by {}.\n", who, format_bytes(d.limit_bytes), d.limit_set_by);
  }
  return out;
}

/// Without `limits`, the same text for the same plan every time.
std::string as_text(const plan_report& plan, bool limits) {
  std::string out = fmt::format("\nContext of {} tokens", plan.context);
  if (plan.sequences > 1)
    out += fmt::format(", {} together in up to {} sequences at once", plan.max_kv_tokens, plan.sequences);
  out += fmt::format(": {} KV pages of {} in {}", plan.kv_pages, plan.kv_page_tokens, plan.kv_type);
  if (plan.kv_pages < plan.max_kv_pages)
    out += fmt::format(" at first, up to {} later", plan.max_kv_pages);
  out += fmt::format(". A decode step reads {} of weights.\n", format_bytes(plan.weight_bytes));
  if (plan.ring_slots > 0)
    out += fmt::format("Embedding, layers, output: {} ({}R stays, S is streamed, {} per step,\n"
                       "through a ring of {} slots of {}).\n",
                       plan.residency, plan.residency.front() == 'G' ? "G: rows gathered, " : "",
                       format_bytes(plan.streamed_bytes), plan.ring_slots, format_bytes(plan.slot_bytes));
  out += describe_ends(plan);
  out += fmt::format("Outside of the plan: about {} for the program, its stacks and the vocabulary.\n",
                     format_bytes(plan.outside_bytes));
  if (limits)
    out += limits_of(plan);
  out += fmt::format("Budget {}", format_bytes(plan.budget_bytes));
  return out + (plan.total_bytes <= plan.budget_bytes
                    ? fmt::format(", of which {} are left.\n", format_bytes(plan.budget_bytes - plan.total_bytes))
                    : fmt::format(", {} too little.\n", format_bytes(plan.total_bytes - plan.budget_bytes)));
}

void execute(const plan_options& options, command_context& env) {
  runtime_config config = options.model.to_config(env);
  config.on_notice = [&](std::string_view sentence) { env.note(sentence); };
  const plan_report plan = runtime::plan(config);
  if (options.json) {
    const auto ahead = look_ahead(options, config, plan);
    env.out.write(as_json(plan, ahead).dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  } else {
    const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
    env.out.write(
        as_table(plan, options.all).aligned(terminal.colour ? "\x1b[1m" : "", terminal.colour ? "\x1b[0m" : ""));
    env.out.write(as_text(plan, !options.no_measure));
    if (const auto ahead = look_ahead(options, config, plan)) // after the table, which needs no measuring
      env.out.write("\n" + describe(ahead->predicted, ahead->cost, ahead->speed) + describe(ahead->flow, plan));
  }
  if (!plan.refusal.empty())
    throw error(errc::over_budget, plan.refusal); // as a run does
}

} // namespace

command make_plan() {
  auto options = std::make_shared<plan_options>();
  return {.name = "plan",
          .summary = "bytes per device and purpose, before anything loads",
          .help = {.about =
                       "Shows the bytes that a run would hold, by device and purpose, before anything loads, and how "
                       "fast this machine would be: disk, memory and arithmetic are measured for about 0.3 s. With "
                       "a --budget that is too small, the status is 2 and the sentence has the smallest that works.",
                   .usage = "tropilla plan [options]",
                   .example = "  tropilla plan --ctx 2048 --budget 1GiB"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
