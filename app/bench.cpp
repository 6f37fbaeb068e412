// `tropilla bench`: measures prefill and decode rates as llama-bench does.
#include "app/command.hpp"

#include "app/ids.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"
#include "src/model/synth.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct bench_options {
  model_options model;
  std::string prompt_sizes = "512";
  std::string reply_sizes = "128";
  std::size_t depth = 0;
  std::size_t repetitions = 5;
  std::string format = "md";

  bench_options() { model.context_otherwise = "what the longest test needs"; }

  void bind(option_binder& b) {
    b.group("Tests");
    b.text({"-p,--n-prompt", "N[,N...]", "tokens of a prefill test (pp); 0: none"}, prompt_sizes);
    b.text({"-n,--n-gen", "N[,N...]", "tokens of a decode test (tg); 0: none"}, reply_sizes);
    b.count({"-d,--n-depth", "N", "tokens of context that are there before a test begins"}, depth,
            {.max = std::numeric_limits<std::int32_t>::max()});
    b.count({"-r,--repetitions", "N", "of each test, after one that is not counted"}, repetitions,
            {.min = 1, .max = 10000});
    model.bind(b);
    b.group("Output");
    b.choice({"-o,--output", "FORMAT", "how results are written"}, format, {"md", "csv", "json"});
  }
};

struct test_result {
  std::string name; ///< "pp512"
  std::vector<double> rates;
  std::vector<double> overheads; ///< of decode tests
  std::vector<double> overlaps;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n == 0 ? 0 : (values[(n - 1) / 2] + values[n / 2]) / 2;
}

double deviation(const std::vector<double>& values) {
  if (values.size() < 2)
    return 0;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double squares = 0;
  for (const double v : values)
    squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

std::vector<std::size_t> sizes(const std::string& text, std::string_view option) {
  std::vector<std::size_t> out;
  for (const token_id n : parse_ids(text)) {
    if (n < 0)
      throw error(errc::invalid_argument, fmt::format("{} needs numbers of tokens, not {}", option, n));
    if (n > 0)
      out.push_back(static_cast<std::size_t>(n));
  }
  return out;
}

/// Runs one reply to its end. Every call has the same `depth` tokens of context, which stay in the KV pages from one to
/// the next; the prompts behind them differ in their first token, so that no cache helps.
generation_statistics measure(runtime& rt, std::size_t depth, std::size_t prompt, std::size_t reply,
                              std::size_t round) {
  const std::size_t vocabulary = rt.model().vocabulary;
  auto ids = synthetic_ids(depth, vocabulary);
  const auto behind = synthetic_ids(prompt, vocabulary, round);
  ids.insert(ids.end(), behind.begin(), behind.end());
  ids[depth] = static_cast<token_id>(round % vocabulary);
  generation_options options;
  options.max_tokens = reply;
  options.ignore_eos = true;
  generation g = rt.generate(std::move(ids), options);
  while (g.next()) {
  }
  return g.statistics();
}

class bench {
public:
  bench(const bench_options& options, runtime& rt, progress& shown, std::size_t tests)
      : rt_(rt), depth_(options.depth), repetitions_(options.repetitions), shown_(shown),
        rounds_in_all_(tests * (repetitions_ + 1)) {}

  test_result prefill(std::size_t tokens) {
    test_result t{fmt::format("pp{}{}", tokens, at_depth()), {}, {}, {}};
    repeat([&](bool counts) {
      const auto s = measure(rt_, depth_, tokens, 1, round_);
      if (!counts)
        return;
      t.rates.push_back(s.prefill_rate());
      t.overlaps.push_back(s.overlap_efficiency());
    });
    return t;
  }

  test_result decode(std::size_t tokens) {
    test_result t{fmt::format("tg{}{}", tokens, at_depth()), {}, {}, {}};
    repeat([&](bool counts) {
      const auto s = measure(rt_, depth_, 1, tokens + 1, round_); // the first token is the prompt's
      if (!counts)
        return;
      t.rates.push_back(s.decode_rate());
      t.overheads.push_back(s.decode_overhead());
      t.overlaps.push_back(std::max(s.load_seconds, s.compute_seconds) / s.decode_seconds);
    });
    return t;
  }

private:
  [[nodiscard]] std::string at_depth() const { return depth_ > 0 ? fmt::format("@d{}", depth_) : std::string(); }

  template <class F>
  void repeat(F test) {
    for (std::size_t i = 0; i <= repetitions_; ++i) {
      test(i > 0); // the first warms up
      shown_.update(++round_, rounds_in_all_);
    }
  }

  runtime& rt_;
  std::size_t depth_;
  std::size_t repetitions_;
  progress& shown_;
  std::size_t rounds_in_all_;
  std::size_t round_ = 0;
};

json as_json(const test_result& t, const runtime& rt) {
  json out = {{"model", rt.model().name},
              {"type", rt.model().type},
              {"file_bytes", rt.model().file_bytes},
              {"parameters", rt.model().parameters},
              {"weight_bytes", rt.plan().weight_bytes},
              {"threads", rt.threads()},
              {"isa", rt.isa()},
              {"test", t.name},
              {"kv_type", rt.plan().kv_type},
              {"tok_s", median(t.rates)},
              {"tok_s_stddev", deviation(t.rates)},
              {"tok_s_min", *std::min_element(t.rates.begin(), t.rates.end())},
              {"tok_s_max", *std::max_element(t.rates.begin(), t.rates.end())},
              {"overlap", median(t.overlaps)},
              {"streamed_bytes", rt.plan().streamed_bytes},
              {"samples", t.rates}};
  if (!t.overheads.empty())
    out["overhead"] = median(t.overheads);
  return out;
}

table as_table(const std::vector<test_result>& results, const runtime& rt) {
  table t;
  t.columns = {{"model"},      {"type"},        {"size", true},   {"threads", true}, {"isa"},
               {"test", true}, {"tok/s", true}, {"spread", true}, {"overhead", true}};
  for (const test_result& r : results)
    t.rows.push_back({escape(rt.model().name), rt.model().type, format_bytes(rt.model().file_bytes),
                      fmt::format("{}", rt.threads()), std::string(rt.isa()), r.name,
                      fmt::format("{:.2f}", median(r.rates)), fmt::format("{:.2f}", deviation(r.rates)),
                      r.overheads.empty() ? std::string() : fmt::format("{:.2f}%", 100 * median(r.overheads))});
  return t;
}

void execute(const bench_options& options, command_context& env) {
  const auto prompts = sizes(options.prompt_sizes, "--n-prompt");
  const auto replies = sizes(options.reply_sizes, "--n-gen");
  if (prompts.empty() && replies.empty())
    throw error(errc::invalid_argument, "there is nothing to measure: --n-prompt and --n-gen are both 0");
  runtime_config config = options.model.to_config(env);
  std::size_t needed = 0;
  for (const std::size_t n : prompts)
    needed = std::max(needed, options.depth + n + 1);
  for (const std::size_t n : replies)
    needed = std::max(needed, options.depth + n + 2);
  if (config.context == 0)
    config.context = std::max<std::size_t>(needed, 64);
  if (config.context < needed) // a test that the context's end cuts short measures something else
    throw error(errc::invalid_argument,
                fmt::format("--ctx {} is too small for these tests: they need {} tokens", config.context, needed));
  std::vector<test_result> results;
  loaded_runtime model(std::move(config), options.model, env);
  model.wait();
  {
    progress shown("measuring", progress::unit::count, options.model.quiet, env.status);
    bench b(options, model.get(), shown, prompts.size() + replies.size());
    for (const std::size_t n : prompts)
      results.push_back(b.prefill(n));
    for (const std::size_t n : replies)
      results.push_back(b.decode(n));
    shown.finish();
  }
  if (options.format == "json") {
    json out = json::array();
    for (const test_result& r : results)
      out.push_back(as_json(r, model.get()));
    env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  } else {
    const table t = as_table(results, model.get());
    env.out.write(options.format == "md" ? t.markdown() : t.csv());
  }
}

} // namespace

command make_bench() {
  auto options = std::make_shared<bench_options>();
  return {.name = "bench",
          .summary = "prefill and decode rates",
          .help = {.about = "Measures prefill (pp) and decode (tg) in tokens per second.",
                   .usage = "tropilla bench [options]",
                   .notes =
                       "Rates are medians. A decode test starts from one token behind those of -d. Overhead is the "
                       "share of a decode step in which nothing is computed (or read, if that takes longer): "
                       "messages between actors, drawing the token, handing it over. Overlap (json) is max(load, "
                       "compute) / elapsed.",
                   .example = "  tropilla bench -p 128,512 -n 64 -o json"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
