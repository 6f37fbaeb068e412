// Runs many streams at once in bench_throughput, with keys and values for a few, and checks their texts.
#include "bench/throughput_modes.hpp"

#include <fmt/format.h>

namespace tropilla::bench {

namespace {

/// The number of streams that there are keys and values for, whatever the number of streams.
constexpr std::size_t streams_with_pages = 50;

/// Makes the requests. Every other one draws with a seed of its own: a mistake that mixes up sequences changes such a
/// text at once.
std::vector<request> make_streams(const throughput_options& o, std::size_t count, std::size_t tokens,
                                  std::size_t vocabulary) {
  std::vector<request> streams;
  for (std::size_t i = 0; i < count; ++i) {
    request r{random_ids(32 + (i * 37) % 65, o.seed + i, vocabulary), tokens, 0, {}};
    if (i % 2 == 1)
      r.sampling = {.temperature = 0.8, .top_p = 0.95, .seed = o.seed + i};
    streams.push_back(std::move(r));
  }
  return streams;
}

} // namespace

json run_streams(const throughput_options& o) {
  const std::size_t tokens = o.tokens > 0 ? o.tokens : 32;
  const std::size_t count = o.count > 0 ? o.count : 1000;
  const std::size_t context = 96 + tokens;
  json out = {{"mode", "streams"}, {"streams", count}, {"streams_with_pages", streams_with_pages}};
  std::vector<request> streams;
  std::vector<std::shared_ptr<record>> records;
  {
    // More sequences than have pages: whose pages run out wait, or are computed again.
    auto rt = open_runtime(o, 2 * streams_with_pages, context, streams_with_pages * context);
    streams = make_streams(o, count, tokens, rt.model().vocabulary);
    crowd clients(rt);
    records = clients.submit_all(streams);
    clients.wait();
    out["wall_s"] = clients.now();
    out["endings"] = clients.endings();
    out["preemptions"] = rt.load().preemptions;
    out["planned_bytes"] = rt.plan().total_bytes;
    out["peak_bytes"] = rt.memory().front().peak_bytes;
    out["kv_tokens"] = rt.plan().kv_tokens;
  }
  std::size_t unfinished = 0, different = 0;
  for (const auto& r : records)
    unfinished += r->failure.has_value() || r->ids.size() != tokens || r->cost.finish != finish_reason::length;
  const auto sample = std::min(o.sample, count);
  auto unrecorded = o;
  unrecorded.record_pool.clear(); // the traffic is over
  auto alone = open_runtime(unrecorded, 1, context, context);
  for (std::size_t i = 0; i < sample; ++i) {
    const auto which = std::min((i * count / sample) | (i % 2), count - 1);
    crowd client(alone);
    const auto r = client.submit(streams[which]);
    client.wait();
    different += r->ids != records[which]->ids || r->text != records[which]->text;
  }
  out["sampled"] = sample;
  out["unfinished"] = unfinished;
  out["different"] = different;
  const bool past_plan = out["peak_bytes"] > out["planned_bytes"];
  out["failed"] = unfinished + different + (past_plan ? 1 : 0) + (out["endings"] == count ? 0 : 1);
  return out;
}

} // namespace tropilla::bench
