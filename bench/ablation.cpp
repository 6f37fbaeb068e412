// Runs one workload under one strategy, in a process of its own, and reports what it holds, how long it takes, and what
// it computes. bench/ablation.py runs it and makes the table; docs/ablation.md says what each strategy is.
//
//   bench_ablation --model F --packed DIR --prepare
//   bench_ablation --settle BYTES
//   bench_ablation --model F --packed DIR --strategy baseline [--streamed] [--replicas N] [options]
#include "bench/ablation_replica.hpp"
#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"
#include "src/model/synth.hpp"
#include "src/model/tokenizer.hpp"
#include "tropilla/runtime.hpp"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

using namespace tropilla;
using namespace tropilla::bench;

namespace {

using json = nlohmann::ordered_json;

struct options {
  std::string model, packed, strategy = "baseline", io = "direct", trace, text;
  std::size_t replicas = 1, context = 2048, rows = 256, prompt = 256, decode = 16, threads = 0, score = 0;
  std::size_t runtime_context = 0; ///< 0: what the workload needs
  std::size_t settle = 0;
  bool streamed = false, prepare = false;
};

/// The strategies that are on. `runtime`: the library's runtime instead of this program's parts.
struct strategy {
  bool memory = false, loading = false, sharing = false, runtime = false;
};

const std::map<std::string, strategy, std::less<>> strategies = {
    {"baseline", {}},
    {"memory", {.memory = true}},
    {"loading", {.loading = true}},
    {"sharing", {.sharing = true}},
    {"together", {.memory = true, .loading = true, .sharing = true}},
    {"all", {.runtime = true}},
};

options parse(int count, char** arguments) {
  options o;
  const std::map<std::string_view, std::string*> texts = {{"--model", &o.model},       {"--packed", &o.packed},
                                                          {"--strategy", &o.strategy}, {"--io", &o.io},
                                                          {"--trace", &o.trace},       {"--text", &o.text}};
  const std::map<std::string_view, std::size_t*> numbers = {
      {"--replicas", &o.replicas}, {"--context", &o.context},
      {"--rows", &o.rows},         {"--prompt", &o.prompt},
      {"--decode", &o.decode},     {"--threads", &o.threads},
      {"--score", &o.score},       {"--runtime-context", &o.runtime_context},
      {"--settle", &o.settle}};
  const std::map<std::string_view, bool*> flags = {{"--streamed", &o.streamed}, {"--prepare", &o.prepare}};
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    if (const auto f = flags.find(name); f != flags.end()) {
      *f->second = true;
      continue;
    }
    if (i + 1 == count)
      throw error(errc::invalid_argument, fmt::format("{} is unknown or lacks a value", name));
    const std::string_view value = arguments[++i];
    if (const auto t = texts.find(name); t != texts.end()) {
      *t->second = value;
    } else if (const auto n = numbers.find(name); n != numbers.end()) {
      if (std::from_chars(value.data(), value.data() + value.size(), *n->second).ptr != value.data() + value.size())
        throw error(errc::invalid_argument, fmt::format("{} wants a number, not {}", name, value));
    } else {
      throw error(errc::invalid_argument, fmt::format("there is no option {}", name));
    }
  }
  if (o.settle > 0)
    return o;
  if (o.model.empty() || o.packed.empty() || !strategies.contains(o.strategy))
    throw error(errc::invalid_argument, "--model, --packed and one of --strategy baseline, memory, loading, sharing, "
                                        "together, all are needed");
  if (o.replicas == 0 || o.prompt == 0 || o.decode == 0 || o.rows == 0 || o.prompt + o.decode > o.context)
    throw error(errc::invalid_argument, "prompt and reply must fit the context, and nothing may be 0");
  return o;
}

/// The first ids of the text, or made-up ones where there is none.
std::vector<token_id> ids_to_score(const options& o, std::size_t vocabulary) {
  if (o.text.empty())
    return synthetic_ids(o.score, vocabulary);
  std::ifstream in(o.text, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  auto ids = tokenizer(gguf_file::open(o.model)).encode(text);
  if (ids.size() < o.score)
    throw error(errc::invalid_argument, fmt::format("{} has {} tokens, not {}", o.text, ids.size(), o.score));
  ids.resize(o.score);
  return ids;
}

/// Sums up the negative log-likelihoods of a text's tokens.
class perplexity {
public:
  explicit perplexity(std::vector<token_id> ids) : ids_(std::move(ids)) {}

  void row(std::size_t i, std::span<const float> logits) {
    if (i + 1 == ids_.size())
      return;
    const double maximum = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    double sum = 0;
    for (const float l : logits)
      sum += std::exp(static_cast<double>(l) - maximum);
    total_ += maximum + std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(ids_[i + 1])]);
  }
  [[nodiscard]] const std::vector<token_id>& ids() const { return ids_; }
  [[nodiscard]] double value() const { return std::exp(total_ / static_cast<double>(ids_.size() - 1)); }

private:
  std::vector<token_id> ids_;
  double total_ = 0;
};

/// The value of a line like "VmHWM:    1234 kB", in bytes; 0 where the system has none.
std::size_t field_of(const char* file, std::string_view name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name))
      return std::stoul(line.substr(name.size())) * 1024;
  return 0;
}

/// This process's share of the mapped packed weights, in bytes: what it has alone, and its part of what is shared.
std::size_t mapped_bytes(const std::filesystem::path& folder) {
  std::ifstream in("/proc/self/smaps");
  std::size_t sum = 0;
  bool ours = false;
  for (std::string line; std::getline(in, line);) {
    if (line.find(' ') != std::string::npos && line.find(':') > line.find(' '))
      ours = line.find(folder.string()) != std::string::npos;
    else if (ours && line.starts_with("Pss:"))
      sum += std::stoul(line.substr(4)) * 1024;
  }
  return sum;
}

json by_purpose(const std::array<std::size_t, purpose_count>& bytes) {
  json out = json::object();
  for (std::size_t p = 0; p < purpose_count; ++p)
    out[std::string(to_string(static_cast<purpose>(p)))] = bytes[p];
  return out;
}

std::size_t weight_bytes(const llama_layout& layout) {
  std::size_t sum = 0;
  for (const auto& g : layout.groups)
    sum += g.bytes;
  return sum;
}

double seconds_since(bench_clock::time_point t) {
  return std::chrono::duration<double>(bench_clock::now() - t).count();
}

void add_reply(json& out, const reply& r, bench_clock::time_point began) {
  out["first_token_s"] = std::chrono::duration<double>(r.first_token - began).count();
  out["prefill_load_s"] = r.prefill_load;
  out["prefill_compute_s"] = r.prefill_compute;
  out["decode_tok_s"] = r.decode > 0 ? static_cast<double>(r.tokens.size() - 1) / r.decode : 0;
  out["tokens"] = r.tokens;
}

/// Runs what this program does itself: the baseline, and strategies alone.
json run_parts(const options& o, const strategy& s, bench_clock::time_point began) {
  const auto file = gguf_file::open(o.model);
  const auto config = llama_config::read(file);
  host_options host;
  host.threads = o.threads;
  const auto dev = make_host_device(host);
  // Streamed, the rows of the embedding are looked up on disk in any case. What is read at a time is a tensor of the
  // head, or with the loader a tile of it no larger than a layer.
  const auto form = o.streamed ? weight_form::tiled : weight_form::whole;
  const auto layout = llama_layout::make(config, form, s.loading ? 0 : std::numeric_limits<std::size_t>::max() / 2);
  const run_shape shape{o.context, std::min(o.rows, o.context), o.score > 0 ? std::min<std::size_t>(64, o.rows) : 1};
  tracer trace;
  auto* const traced = o.trace.empty() ? nullptr : &trace;

  const std::size_t each =
      2 * weight_bytes(layout) + kv_page_bytes(layout, shape.kv) * (o.context / kv_page_tokens + 1);
  const auto memory =
      s.memory ? make_arbiter_memory(*dev, o.replicas * each + (std::size_t{1} << 30)) : make_plain_memory();
  weights_setup w{&layout, dev.get(), memory.get(), traced, file.files, o.packed, io_mode::direct};
  w.mode = o.io == "direct" ? io_mode::direct : io_mode::buffered;
  w.streamed = o.streamed;
  w.ahead = s.loading;
  w.slots = s.memory;

  json out;
  std::vector<std::unique_ptr<weights>> copies;
  std::vector<replica> replicas;
  replicas.reserve(o.replicas);
  std::optional<reply> first;
  perplexity scored(o.score > 0 ? ids_to_score(o, config.vocabulary) : std::vector<token_id>{});
  for (std::size_t i = 0; i < o.replicas; ++i) {
    if (copies.empty() || !s.sharing)
      copies.push_back(open_weights(w));
    replicas.emplace_back(
        replica_setup{&layout, dev.get(), memory.get(), copies.back().get(), traced, shape, s.memory});
    if (o.score > 0) {
      replicas.back().score(scored.ids(), [&](std::size_t at, auto logits) { scored.row(at, logits); });
      break;
    }
    auto r = replicas.back().generate(synthetic_ids(o.prompt, config.vocabulary), o.decode);
    if (!first)
      first = std::move(r);
  }
  out["elapsed_s"] = seconds_since(began);
  if (first)
    add_reply(out, *first, began);
  if (o.score > 0)
    out["perplexity"] = scored.value();
  const auto peak = memory->peak();
  out["peak_bytes"] = peak.total;
  out["by_purpose"] = by_purpose(peak.by_purpose);
  out["weight_copies"] = static_cast<double>(peak.by_purpose[static_cast<std::size_t>(purpose::weights)]) /
                         static_cast<double>(weight_bytes(layout));
  out["pss_bytes"] = field_of("/proc/self/smaps_rollup", "Pss:");
  if (traced)
    trace.write(o.trace);
  return out;
}

runtime_config config_of(const options& o) {
  runtime_config c;
  c.model = o.model;
  c.threads = o.threads;
  c.context = o.runtime_context ? o.runtime_context : std::max(o.prompt + o.decode, o.score);
  c.max_batch_tokens = o.rows;
  c.logit_rows = o.score > 0 ? 64 : 1;
  c.packed_cache = o.packed;
  c.sequences = 1; // pages for the one that is measured, as the other strategies have
  c.io = o.io;
  c.trace = o.trace;
  if (!o.streamed)
    return c;
  // The other strategies' ring has a slot more than the smallest plan: as many bytes for all.
  c.budget_bytes = 1;
  const auto least = runtime::plan(c);
  std::size_t slots = 0, ring = 0;
  for (const auto& line : least.lines)
    if (line.purpose == to_string(purpose::ring)) {
      ++slots;
      ring += line.bytes;
    }
  c.budget_bytes = least.total_bytes + (slots > 0 && slots < 3 ? ring / slots : 0);
  return c;
}

/// Runs the library as any program uses it.
json run_runtime(const options& o, bench_clock::time_point began) {
  json out;
  const auto config = config_of(o);
  std::vector<std::unique_ptr<runtime>> replicas;
  reply first;
  for (std::size_t i = 0; i < o.replicas; ++i) {
    replicas.push_back(std::make_unique<runtime>(config));
    auto& rt = *replicas.back();
    if (o.score > 0) {
      perplexity scored(ids_to_score(o, rt.model().vocabulary));
      rt.score(scored.ids(), [&](std::size_t at, auto logits) { scored.row(at, logits); });
      out["perplexity"] = scored.value();
      break;
    }
    generation_options how;
    how.max_tokens = o.decode;
    how.ignore_eos = true;
    auto reply_pieces = rt.generate(synthetic_ids(o.prompt, rt.model().vocabulary), how);
    reply r;
    for (const auto& p : reply_pieces) {
      if (r.tokens.empty())
        r.first_token = bench_clock::now();
      if (p.id >= 0)
        r.tokens.push_back(p.id);
    }
    const auto& stats = reply_pieces.statistics();
    r.prefill_load = stats.prefill_load_seconds;
    r.prefill_compute = stats.prefill_compute_seconds;
    r.decode = stats.decode_seconds;
    if (i == 0)
      first = std::move(r);
  }
  out["elapsed_s"] = seconds_since(began);
  if (o.score == 0)
    add_reply(out, first, began);
  std::size_t total = 0;
  std::array<std::size_t, purpose_count> purposes{};
  for (const auto& rt : replicas)
    for (const auto& m : rt->memory()) {
      total += m.peak_bytes;
      for (std::size_t p = 0; p < purpose_count; ++p)
        purposes[p] += m.purposes[p].peak_bytes;
    }
  auto& held = purposes[static_cast<std::size_t>(purpose::weights)];
  const std::size_t one = held / replicas.size();
  // Each arbiter counts what it maps; in memory it is once, and the kernel's account says so.
  if (const auto mapped = mapped_bytes(o.packed); o.io == "mmap" && mapped > 0) {
    total = total - held + mapped;
    held = mapped;
  }
  out["peak_bytes"] = total;
  out["by_purpose"] = by_purpose(purposes);
  out["weight_copies"] = o.streamed || one == 0 ? 0.0 : static_cast<double>(held) / static_cast<double>(one);
  out["pss_bytes"] = field_of("/proc/self/smaps_rollup", "Pss:");
  out["residency"] = replicas.front()->plan().residency;
  return out;
}

/// Packs the weights into the cache, so that every strategy reads the same file. Its name depends on the layout's form.
void prepare(const options& o) {
  const auto file = gguf_file::open(o.model);
  const auto dev = make_host_device({});
  const auto memory = make_plain_memory();
  for (const auto form : {weight_form::whole, weight_form::tiled}) {
    const auto layout = llama_layout::make(llama_config::read(file), form);
    weights_setup w{&layout, dev.get(), memory.get(), nullptr, file.files, o.packed, io_mode::buffered};
    w.ahead = true;
    const auto all = open_weights(w); // complete when it goes
    for (std::size_t g = 0; g < layout.groups.size(); ++g)
      all->need(g);
  }
}

/// Takes and gives back pages, large ones where there are any. A virtual machine may have to ask its host for what it
/// gave back, and that depends on which size of pages the process before used.
void settle(std::size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw error(errc::over_budget, fmt::format("the system has no {} to settle", format_bytes(bytes)));
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes);
}

} // namespace

int main(int count, char** arguments) try {
  const auto began = bench_clock::now();
  const auto o = parse(count, arguments);
  if (o.settle > 0) {
    settle(o.settle);
    return 0;
  }
  if (o.prepare) {
    prepare(o);
    return 0;
  }
  const auto s = strategies.find(o.strategy)->second;
  json out = {{"model", std::filesystem::path(o.model).filename().string()},
              {"strategy", o.strategy},
              {"streamed", o.streamed},
              {"replicas", o.replicas},
              {"io", o.io},
              {"context", o.context},
              {"rows", o.rows},
              {"prompt_tokens", o.prompt},
              {"decode_tokens", o.decode}};
  out.update(s.runtime ? run_runtime(o, began) : run_parts(o, s, began));
  rusage used{};
  (void)getrusage(RUSAGE_SELF, &used);
  out["rss_peak_bytes"] = field_of("/proc/self/status", "VmHWM:");
  out["page_faults"] = used.ru_minflt;
  fmt::print("{}\n", out.dump());
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_ablation: {}\n", e.what());
  return 2;
}
