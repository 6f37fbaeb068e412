// `tropilla plan`: every byte of a run, before anything loads.
#include "src/app/command.hpp"

#include "memory/arbiter.hpp"
#include "src/app/table.hpp"
#include "src/app/text.hpp"

#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

constexpr std::string_view help =
    R"(Shows the bytes that a run would hold, by device and purpose, before anything loads.

Usage: tropilla plan -m FILE [options]

  -m, --model FILE    GGUF model (also TROPILLA_MODEL)
      --ctx N         tokens of context (the model's, at most 4096)
      --budget BYTES  300MiB: plan for it, streaming what doesn't fit (exit status 2 if too small)
  -t, --threads N     threads (the cores it may use)
      --isa NAME      scalar, avx2, avx512: weights are laid out for it
      --precise       float32 activations
      --io, --no-cache: as for run
      --template NAME, --trace FILE, -q, --quiet: as for run
      --all           every line of the plan instead of sums
      --json          one object with all lines
      --config FILE   options from TOML

Example:
  tropilla plan -m model.gguf --ctx 2048
)";

struct plan_options {
  model_options model;
  bool all = false;
  bool json = false;

  void bind(option_binder& b) {
    model.bind(b);
    b.flag("--all", all);
    b.flag("--json", json);
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

json as_json(const plan_report& plan) {
  json out = {{"total_bytes", plan.total_bytes},
              {"budget_bytes", plan.budget_bytes},
              {"fits", plan.total_bytes <= plan.budget_bytes},
              {"context", plan.context},
              {"weight_bytes", plan.weight_bytes},
              {"residency", plan.residency},
              {"streamed_bytes", plan.streamed_bytes}};
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
    t.columns = {{"device"}, {"purpose"}, {"name"}, {"size", true}, {"bytes", true}};
    for (const plan_line& line : plan.lines)
      t.rows.push_back({line.device, line.purpose, line.name, format_bytes(line.bytes), fmt::format("{}", line.bytes)});
    t.rows.push_back({"total", "", "", format_bytes(plan.total_bytes), fmt::format("{}", plan.total_bytes)});
    return t;
  }
  t.columns = {{"device"}, {"purpose"}, {"parts", true}, {"size", true}, {"bytes", true}};
  for (const purpose_sum& s : sums_of(plan))
    t.rows.push_back(
        {s.device, s.purpose, fmt::format("{}", s.parts), format_bytes(s.bytes), fmt::format("{}", s.bytes)});
  t.rows.push_back({"total", "", "", format_bytes(plan.total_bytes), fmt::format("{}", plan.total_bytes)});
  return t;
}

void execute(const plan_options& options, surroundings& around) {
  const plan_report plan = runtime::plan(options.model.to_config());
  const bool fits = plan.total_bytes <= plan.budget_bytes;
  if (options.json) {
    around.out.write(as_json(plan).dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  } else {
    const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
    around.out.write(
        as_table(plan, options.all).aligned(terminal.colour ? "\x1b[1m" : "", terminal.colour ? "\x1b[0m" : ""));
    around.out.write(fmt::format("\nContext of {} tokens; a decode step reads {} of weights; budget {}.\n",
                                 plan.context, format_bytes(plan.weight_bytes), format_bytes(plan.budget_bytes)));
    if (plan.streamed_bytes > 0)
      around.out.write(fmt::format("Embedding, layers, output: {} (R stays, S is streamed: {} of the file per step).\n",
                                   plan.residency, format_bytes(plan.streamed_bytes)));
  }
  if (!fits)
    throw error(errc::over_budget,
                fmt::format("the plan needs {} more than the budget of {}; the smallest that works is {} ({} bytes)",
                            format_bytes(plan.total_bytes - plan.budget_bytes), format_bytes(plan.budget_bytes),
                            format_bytes(plan.total_bytes), plan.total_bytes));
}

} // namespace

command make_plan() {
  auto options = std::make_shared<plan_options>();
  return {.name = "plan",
          .summary = "bytes per device and purpose, before anything loads",
          .help = help,
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](surroundings& around) { execute(*options, around); }};
}

} // namespace tropilla::app
