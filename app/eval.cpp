// `tropilla eval`: measures perplexity, and how far a run is from another.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/saved_logits.hpp"
#include "app/text.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct eval_options {
  model_options model;
  std::string file;
  std::size_t window = 512;
  std::size_t windows = 0;
  std::string against;
  std::string save;
  std::string top1;
  bool json = false;

  eval_options() { model.context_otherwise = "one --window"; }

  void bind(option_binder& b) {
    b.group("Evaluation");
    b.text({"-f,--file", "FILE", "the text, taken byte for byte; no BOS is added"}, file);
    b.count({"--window", "N", "tokens of a window; positions 1 to N-1 of each full one are scored"}, window,
            {.min = 2});
    b.count({"--windows", "N", "evaluate at most N windows", "all"}, windows);
    b.text({"--against", "FILE", "a model or saved logits: how often the arg-max agrees, and KL divergence from it"},
           against);
    b.text({"--save-logits", "FILE", "for --against (2 bytes per position and token of the vocabulary)"}, save);
    b.text({"--dump-top1", "FILE", "the arg-max at each position, one id per line"}, top1);
    model.bind(b);
    b.group("Output");
    b.flag({"--json", "", "one object"}, json);
  }
};

/// Sums over positions.
struct totals {
  double negative_log_likelihood = 0;
  std::size_t scored = 0;
  std::size_t positions = 0;
  std::vector<token_id> top1;
  std::size_t same_top1 = 0;
  double divergence = 0;
  double largest_divergence = 0;
  double seconds = 0;
};

token_id arg_max(std::span<const float> values) {
  return static_cast<token_id>(std::max_element(values.begin(), values.end()) - values.begin());
}

/// The reference of a comparison: log-probabilities of one window after another.
class opponent {
public:
  opponent(const eval_options& options, const runtime_config& config, std::size_t vocabulary, std::size_t positions) {
    const std::string path = expand_home(options.against).string();
    if (read_magic(path) == "GGUF") {
      runtime_config other = config;
      other.model = path;
      other.trace.clear();
      model_.emplace(other);
      check("vocabulary", model_->model().vocabulary, vocabulary, path);
      return;
    }
    saved_.emplace(path);
    check("vocabulary", saved_->header().vocabulary, vocabulary, path);
    check("window", saved_->header().window, options.window, path);
    if (saved_->header().positions < positions)
      throw error(errc::invalid_argument,
                  fmt::format("{} has {} positions and the text {}: it was made from another text, "
                              "or with --windows",
                              path, saved_->header().positions, positions));
  }

  /// Log-probabilities of a window, [ids, vocabulary].
  const std::vector<std::vector<float>>& window(std::span<const token_id> ids) {
    rows_.resize(ids.size());
    if (saved_) {
      for (std::size_t i = 0; i < ids.size(); ++i)
        if (saved_->next(rows_[i]) != ids[i])
          throw error(errc::invalid_argument, "the saved logits are of another text");
      return rows_;
    }
    model_->score(ids, [&](std::size_t i, std::span<const float> logits) {
      const auto total = static_cast<float>(log_sum_exp(logits));
      rows_[i].assign(logits.begin(), logits.end());
      for (float& l : rows_[i])
        l -= total;
    });
    return rows_;
  }

private:
  static std::string read_magic(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in)
      throw_system_error("read", path, errno);
    std::string begin(4, '\0');
    in.read(begin.data(), 4);
    return begin;
  }

  static void check(std::string_view what, std::size_t theirs, std::size_t ours, const std::string& path) {
    if (theirs != ours)
      throw error(
          errc::invalid_argument,
          fmt::format("{} has a {} of {} and this run one of {}: they can't be compared", path, what, theirs, ours));
  }

  std::optional<runtime> model_;
  std::optional<logits_reader> saved_;
  std::vector<std::vector<float>> rows_;
};

/// KL(reference || ours) in nats.
double divergence(std::span<const float> reference, std::span<const float> logits, double total) {
  double sum = 0;
  for (std::size_t k = 0; k < logits.size(); ++k) {
    const auto p = static_cast<double>(reference[k]);
    sum += std::exp(p) * (p - (static_cast<double>(logits[k]) - total));
  }
  return std::max(sum, 0.0);
}

totals evaluate(const eval_options& options, runtime& rt, std::span<const token_id> ids, opponent* other,
                logits_writer* saved, progress& shown) {
  totals t;
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t at = 0; at < ids.size(); at += options.window) {
    const auto window = ids.subspan(at, options.window);
    const auto* reference = other ? &other->window(window) : nullptr;
    rt.score(window, [&](std::size_t i, std::span<const float> logits) {
      const double total = log_sum_exp(logits);
      const token_id best = arg_max(logits);
      t.top1.push_back(best);
      ++t.positions;
      if (i + 1 < window.size()) {
        t.negative_log_likelihood += total - static_cast<double>(logits[static_cast<std::size_t>(window[i + 1])]);
        ++t.scored;
      }
      if (saved)
        saved->add(window[i], logits);
      if (reference) {
        const auto& row = (*reference)[i];
        t.same_top1 += arg_max(row) == best;
        const double d = divergence(row, logits, total);
        t.divergence += d;
        t.largest_divergence = std::max(t.largest_divergence, d);
      }
      shown.update(t.positions, ids.size());
    });
  }
  t.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  shown.finish();
  return t;
}

json as_json(const totals& t, const eval_options& options, const runtime& rt) {
  json out = {{"model", rt.model().name},
              {"type", rt.model().type},
              {"precise", options.model.config.precise},
              {"perplexity", std::exp(t.negative_log_likelihood / static_cast<double>(t.scored))},
              {"scored", t.scored},
              {"window", options.window},
              {"windows", t.positions / options.window},
              {"positions", t.positions},
              {"seconds", t.seconds}};
  if (!options.against.empty()) {
    out["top1_agreement"] = static_cast<double>(t.same_top1) / static_cast<double>(t.positions);
    out["mean_kl"] = t.divergence / static_cast<double>(t.positions);
    out["max_kl"] = t.largest_divergence;
  }
  return out;
}

/// The ids of as many full windows as the text has.
std::vector<token_id> windows_of(const eval_options& options, const runtime& rt) {
  auto ids = rt.tokenize(read_file(expand_home(options.file), max_text_bytes));
  std::size_t windows = ids.size() / options.window;
  if (windows == 0)
    throw error(errc::invalid_argument,
                fmt::format("the text has {} tokens, fewer than one window of {}; give a longer "
                            "text or a smaller --window",
                            ids.size(), options.window));
  if (options.windows > 0)
    windows = std::min(windows, options.windows);
  ids.resize(windows * options.window);
  return ids;
}

void execute(const eval_options& options, command_context& env) {
  if (options.file.empty())
    throw error(errc::invalid_argument, "eval needs a text: -f FILE");
  runtime_config config = options.model.to_config(env);
  if (config.context == 0)
    config.context = options.window;
  if (config.context < options.window)
    throw error(errc::invalid_argument,
                fmt::format("a window of {} tokens does not fit a context of {}", options.window, config.context));
  config.logit_rows = std::min<std::size_t>(options.window, 64); // beyond that the logits' buffer grows, the speed not
  loaded_runtime model(config, options.model, env);
  runtime& rt = model.get();
  const auto ids = windows_of(options, rt);
  std::optional<opponent> other;
  if (!options.against.empty())
    other.emplace(options, config, rt.model().vocabulary, ids.size());
  std::optional<logits_writer> saved;
  if (!options.save.empty())
    saved.emplace(expand_home(options.save), saved_logits_header{rt.model().vocabulary, options.window, ids.size()});
  model.wait();

  progress shown("evaluating", progress::unit::count, options.model.quiet, env.status);
  const totals t = evaluate(options, rt, ids, other ? &*other : nullptr, saved ? &*saved : nullptr, shown);
  if (saved)
    saved->finish();
  if (!options.top1.empty()) {
    std::string lines;
    for (const token_id id : t.top1)
      lines += fmt::format("{}\n", id);
    write_file(expand_home(options.top1), lines);
  }
  const json out = as_json(t, options, rt);
  if (options.json) {
    env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    return;
  }
  env.out.write(fmt::format("perplexity {:.4f} over {} positions in {} of {} ({:.1f} s)\n",
                            out["perplexity"].get<double>(), t.scored, count_of(t.positions / options.window, "window"),
                            options.window, t.seconds));
  if (other)
    env.out.write(fmt::format("against {}: arg-max equal at {:.2f}%, mean KL divergence {:.6f}, at most {:.4f}\n",
                              escape(options.against), 100 * out["top1_agreement"].get<double>(),
                              out["mean_kl"].get<double>(), t.largest_divergence));
}

} // namespace

command make_eval() {
  auto options = std::make_shared<eval_options>();
  return {.name = "eval",
          .summary = "perplexity, agreement and divergence",
          .help = {.about = "Perplexity of a text, and agreement with another model or saved logits.",
                   .usage = "tropilla eval -f FILE [options]",
                   .notes = "With --precise, a model of --against computes in float32, too.",
                   .example = "  tropilla eval -f text.txt --precise --save-logits exact.bin\n"
                              "  tropilla eval -f text.txt --against exact.bin"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
