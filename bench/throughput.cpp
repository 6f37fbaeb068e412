// Measures many requests at once through the library: what the runtime gives when it is busy.
//
//   bench_throughput requests MODEL [--count 64] [--rate R] [--seed S]   the requests themselves, for another program
//   bench_throughput load MODEL [--requests FILE | --count, --rate, --seed as above]  times of every token
//   bench_throughput batch MODEL [--tokens 48]                           decode tok/s at 1, 2, 4, 8, 16, 32 sequences
//   bench_throughput prefix MODEL [--prefix 1024]                        first token with and without a shared prefix
//   bench_throughput streams MODEL [--count 1000] [--sample 20]          many streams, little memory
//   bench_throughput soak MODEL --seconds 600                            full load with cancels and clients that leave
//   bench_throughput flow MODEL [--phases 1,16] [--seconds 10] [--prompt 32] [--tokens 128]  memory that flows
//   bench_throughput turns MODEL [--conversations 64] [--turns 3] [--parallel 8] [--prompt 2000] [--tokens 32]
//                                                                        conversations that come back after others
//   bench_throughput restart MODEL [--pairs 5] [--prompt 4000] [--tokens 32]  one that comes back to another runtime
//   all: [--threads N] [--sequences 16] [--context N] [--kv-tokens N] [--budget-mib N] [--packed DIR]
//        [--isa NAME] [--device cuda:0] [--split HOW] [--kv-host-mib N] [--kv-disk-mib N] [--kv-folder DIR]
//        [--record-pool FILE]
//
// --record-pool writes what the pool of the first device was asked for, for bench_pool --replay.
//
// Prints a JSON object. Status 1 when a mode that checks found something wrong. bench/throughput.py runs it beside
// llama.cpp's server and makes the tables of docs/benchmarks.md.
#include "bench/pool_recording.hpp"
#include "bench/throughput_modes.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <map>

namespace tropilla::bench {
namespace {

/// Where the runtime leaves the trace of which a recording is made.
std::string trace_path(const throughput_options& o) {
  return o.record_pool + ".trace";
}

} // namespace

runtime open_runtime(const throughput_options& o, std::size_t sequences, std::size_t context, std::size_t kv_tokens,
                     std::size_t unread_pieces) {
  runtime_config c;
  c.model = o.model;
  c.threads = o.threads;
  c.isa = o.isa;
  c.packed_cache = o.packed;
  c.budget_bytes = o.budget_mib << 20;
  if (!o.device.empty())
    c.devices = {{o.device, c.budget_bytes}};
  if (!o.record_pool.empty())
    c.trace = trace_path(o);
  c.sequences = sequences;
  c.kv_host_bytes = o.kv_host_mib << 20;
  c.kv_disk_bytes = o.kv_disk_mib << 20;
  c.kv_folder = o.kv_folder;
  c.split = o.split;
  c.unread_pieces = unread_pieces;
  c.context = o.context > 0 ? o.context : context;
  c.kv_tokens = o.kv_tokens > 0 ? o.kv_tokens : kv_tokens;
  runtime rt(c);
  rt.wait_until_loaded();
  return rt;
}

namespace {

throughput_options parse(int count, char** arguments) {
  throughput_options o;
  const std::map<std::string_view, std::string*> texts = {
      {"--packed", &o.packed},       {"--isa", &o.isa},     {"--phases", &o.phases}, {"--requests", &o.requests},
      {"--kv-folder", &o.kv_folder}, {"--split", &o.split}, {"--device", &o.device}, {"--record-pool", &o.record_pool}};
  const std::map<std::string_view, std::size_t*> numbers = {{"--threads", &o.threads},
                                                            {"--sequences", &o.sequences},
                                                            {"--context", &o.context},
                                                            {"--kv-tokens", &o.kv_tokens},
                                                            {"--count", &o.count},
                                                            {"--tokens", &o.tokens},
                                                            {"--prefix", &o.prefix},
                                                            {"--sample", &o.sample},
                                                            {"--seed", &o.seed},
                                                            {"--prompt", &o.prompt},
                                                            {"--budget-mib", &o.budget_mib},
                                                            {"--conversations", &o.conversations},
                                                            {"--turns", &o.turns},
                                                            {"--parallel", &o.parallel},
                                                            {"--pairs", &o.pairs},
                                                            {"--kv-host-mib", &o.kv_host_mib},
                                                            {"--kv-disk-mib", &o.kv_disk_mib}};
  const std::map<std::string_view, double*> fractions = {{"--rate", &o.rate}, {"--seconds", &o.seconds}};
  if (count < 3)
    throw error(errc::invalid_argument,
                "expected: bench_throughput requests|load|batch|prefix|streams|flow|turns|restart|soak MODEL ...");
  o.mode = arguments[1];
  o.model = arguments[2];
  for (int i = 3; i < count; i += 2) {
    const std::string_view name = arguments[i];
    if (i + 1 == count)
      throw error(errc::invalid_argument, fmt::format("{} is unknown or lacks a value", name));
    const std::string_view value = arguments[i + 1];
    const auto read = [&](auto& into) {
      if (std::from_chars(value.data(), value.data() + value.size(), into).ptr != value.data() + value.size())
        throw error(errc::invalid_argument, fmt::format("{} wants a number, not {}", name, value));
    };
    if (const auto t = texts.find(name); t != texts.end())
      *t->second = value;
    else if (const auto n = numbers.find(name); n != numbers.end())
      read(*n->second);
    else if (const auto f = fractions.find(name); f != fractions.end())
      read(*f->second);
    else
      throw error(errc::invalid_argument, fmt::format("there is no option {}", name));
  }
  if (o.sequences == 0 || o.rate < 0 || o.seconds < 0)
    throw error(errc::invalid_argument, "--sequences is at least 1, --rate and --seconds not negative");
  return o;
}

std::size_t count_of(const throughput_options& o) {
  return o.count > 0 ? o.count : 64;
}

/// Without weights: only the vocabulary is wanted.
json run_requests(const throughput_options& o) {
  return to_json(
      make_requests(count_of(o), o.rate, o.seed, runtime({.model = o.model, .context = 16}).model().vocabulary));
}

json to_json(const record& r) {
  return {
      {"submitted", r.submitted}, {"times", r.times}, {"ids", r.ids}, {"failure", r.failure ? r.failure->what() : ""}};
}

json run_load(const throughput_options& o) {
  auto rt = open_runtime(o, o.sequences, 1024, o.sequences * 1024);
  const auto requests = o.requests.empty() ? make_requests(count_of(o), o.rate, o.seed, rt.model().vocabulary)
                                           : read_requests(o.requests);
  { // What a first request pays once: page faults of buffers, weights that only now come into the caches.
    crowd warm(rt);
    warm.submit_all({{random_ids(256, 99, rt.model().vocabulary), 8, 0, {}}});
    warm.wait();
  }
  crowd clients(rt);
  const auto records = clients.submit_all(requests);
  clients.wait();
  json out = {{"mode", "load"}, {"wall_s", clients.now()}, {"isa", rt.isa()}, {"threads", rt.threads()}};
  out["preemptions"] = rt.load().preemptions;
  for (const auto& r : records)
    out["requests"].push_back(to_json(*r));
  return out;
}

/// Tokens per second while all sequences decode: from when the last got its first token to when the first ended.
json decode_together(runtime& rt, std::size_t sequences, std::size_t tokens, std::uint64_t seed) {
  std::vector<request> requests;
  for (std::size_t i = 0; i < sequences; ++i)
    requests.push_back({random_ids(16, seed + i, rt.model().vocabulary), tokens, 0, {}});
  crowd clients(rt);
  const auto records = clients.submit_all(requests);
  clients.wait();
  double begin = 0, end = clients.now();
  for (const auto& r : records) {
    if (r->failure)
      throw error(*r->failure);
    begin = std::max(begin, r->times.front());
    end = std::min(end, r->times.back());
  }
  std::size_t inside = 0;
  double compute = 0;
  for (const auto& r : records) {
    inside += static_cast<std::size_t>(
        std::count_if(r->times.begin(), r->times.end(), [&](double t) { return t > begin && t <= end; }));
    compute = std::max(compute, r->cost.compute_seconds / r->cost.decode_seconds);
  }
  return {{"sequences", sequences},
          {"tok_s", static_cast<double>(inside) / (end - begin)},
          {"step_ms", 1e3 * (end - begin) * static_cast<double>(sequences) / static_cast<double>(inside)},
          {"compute_share", compute}};
}

json run_batch(const throughput_options& o) {
  const std::size_t tokens = o.tokens > 0 ? o.tokens : 48;
  constexpr std::size_t max_replies = 32;
  const std::size_t context = 16 + tokens + 1;
  auto rt = open_runtime(o, max_replies, context, max_replies * (context + 32));
  json out = {{"mode", "batch"}, {"tokens", tokens}, {"isa", rt.isa()}, {"threads", rt.threads()}};
  (void)decode_together(rt, 2, std::min<std::size_t>(tokens, 8), 1000);
  for (std::size_t n = 1; n <= max_replies; n *= 2)
    out["rows"].push_back(decode_together(rt, n, tokens, o.seed + 100 * n));
  return out;
}

json run_prefix(const throughput_options& o) {
  const auto context = o.prefix + 64;
  auto rt = open_runtime(o, o.sequences, context, 4 * context);
  const auto vocabulary = rt.model().vocabulary;
  const auto first_token = [&](std::vector<token_id> prompt, std::uint64_t own) {
    const auto tail = random_ids(16, own, vocabulary);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    crowd client(rt);
    const auto r = client.submit({prompt, 4, 0, {}});
    client.wait();
    if (r->failure)
      throw error(*r->failure);
    return std::pair(r->times.front() - r->submitted, r->cost.reused_tokens);
  };
  json out = {{"mode", "prefix"}, {"prefix", o.prefix}, {"isa", rt.isa()}, {"threads", rt.threads()}};
  (void)first_token(random_ids(o.prefix, o.seed + 1000, vocabulary), 1);
  for (std::uint64_t round = 0; round < 5; ++round) {
    const auto prefix = random_ids(o.prefix, o.seed + round, vocabulary);
    const auto [alone, none] = first_token(prefix, 100 + round);
    const auto [shared, reused] = first_token(prefix, 200 + round);
    out["rounds"].push_back({{"first_s", alone}, {"second_s", shared}, {"reused_tokens", reused}});
  }
  return out;
}

/// The command, without what depends on where files lie.
std::string command_of(int count, char** arguments) {
  std::string out =
      fmt::format("bench_throughput {} {}", arguments[1], std::filesystem::path(arguments[2]).filename().string());
  for (int i = 3; i + 1 < count; i += 2)
    if (std::string_view(arguments[i]) != "--record-pool" && std::string_view(arguments[i]) != "--packed")
      out += fmt::format(" {} {}", arguments[i], arguments[i + 1]);
  return out;
}

void record_pool(const throughput_options& o, std::string how) {
  auto recording = recording_of_trace(trace_path(o));
  recording.how = std::move(how);
  write_recording(recording, o.record_pool);
  std::filesystem::remove(trace_path(o));
}

} // namespace

} // namespace tropilla::bench

int main(int count, char** arguments) try {
  using namespace tropilla::bench;
  const auto o = parse(count, arguments);
  const std::map<std::string, json (*)(const throughput_options&)> modes = {
      {"requests", run_requests}, {"load", run_load},       {"batch", run_batch},
      {"prefix", run_prefix},     {"streams", run_streams}, {"flow", run_flow},
      {"turns", run_turns},       {"restart", run_restart}, {"soak", run_soak}};
  const auto mode = modes.find(o.mode);
  if (mode == modes.end())
    throw tropilla::error(tropilla::errc::invalid_argument, fmt::format("there is no mode {}", o.mode));
  const auto report = mode->second(o);
  if (!o.record_pool.empty())
    record_pool(o, command_of(count, arguments));
  fmt::print("{}\n", report.dump());
  return report.is_object() && report.value("failed", 0) > 0 ? 1 : 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_throughput: {}\n", e.what());
  return 2;
}
