// Runs phases of one and of many streams in bench_throughput, and records where memory is meanwhile.
#include "bench/throughput_modes.hpp"

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <fmt/format.h>
#include <mutex>
#include <thread>

namespace tropilla::bench {
namespace {

/// Memory, and who has pages, at one moment.
struct memory_sample {
  double at = 0;
  std::vector<memory_report> devices;
  std::size_t active = 0, waiting = 0; ///< sequences
};

/// Looks at a runtime's memory every 50 ms, on a thread of its own.
class memory_watch {
public:
  memory_watch(const runtime& rt, const crowd& clients)
      : thread_([this, &rt, &clients] {
          std::unique_lock lock(mutex_);
          do {
            const auto load = rt.load();
            samples_.push_back({clients.now(), rt.memory(), load.active, load.waiting});
          } while (!changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return over_; }));
        }) {}
  ~memory_watch() { end(); }
  memory_watch(const memory_watch&) = delete;
  memory_watch& operator=(const memory_watch&) = delete;

  const std::vector<memory_sample>& end() {
    if (thread_.joinable()) {
      {
        const std::lock_guard lock(mutex_);
        over_ = true;
      }
      changed_.notify_all();
      thread_.join();
    }
    return samples_;
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::vector<memory_sample> samples_;
  std::thread thread_; ///< last: it uses the rest
};

json to_json(const std::vector<memory_sample>& samples) {
  json out = json::array();
  for (const auto& s : samples)
    for (const auto& d : s.devices) {
      json bytes = json::object();
      for (const auto& p : d.purposes)
        bytes[p.purpose] = p.in_use_bytes;
      out.push_back({{"at", s.at},
                     {"device", d.device},
                     {"in_use", d.in_use_bytes},
                     {"purposes", std::move(bytes)},
                     {"active", s.active},
                     {"waiting", s.waiting}});
    }
  return out;
}

std::vector<std::size_t> numbers_of(std::string_view list) {
  std::vector<std::size_t> out;
  while (!list.empty()) {
    const auto end = std::min(list.find(','), list.size());
    std::size_t n = 0;
    if (std::from_chars(list.data(), list.data() + end, n).ptr != list.data() + end || n == 0)
      throw error(errc::invalid_argument, fmt::format("--phases wants numbers of streams like 1,16, not {}", list));
    out.push_back(n);
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return out;
}

} // namespace

json run_flow(const throughput_options& o) {
  const auto phases = numbers_of(o.phases);
  const std::size_t prompt = o.prompt > 0 ? o.prompt : 32;
  const std::size_t tokens = o.tokens > 0 ? o.tokens : 128;
  const double seconds = o.seconds > 0 ? o.seconds : 10;
  auto rt = open_runtime(o, o.sequences, 512, 0);
  crowd clients(rt);
  memory_watch memory(rt, clients);
  std::vector<std::shared_ptr<record>> records;
  json out = {{"mode", "flow"}, {"isa", rt.isa()}, {"threads", rt.threads()}};
  std::size_t all = 0;
  for (const auto streams : phases) {
    const std::size_t first = records.size();
    std::vector<std::optional<reply_ticket>> tickets;
    const double begin = clients.now(), end = begin + seconds;
    do { // a stream that ends is followed by another at once
      records.push_back(
          clients.submit({random_ids(prompt, o.seed + records.size(), rt.model().vocabulary), tokens, 0, {}}, 0,
                         &tickets.emplace_back()));
    } while (clients.wait_until(end, streams - 1));
    for (const auto& ticket : tickets)
      ticket->cancel();
    clients.wait();
    std::size_t inside = 0;
    for (std::size_t i = first; i < records.size(); ++i)
      inside += static_cast<std::size_t>(std::ranges::count_if(records[i]->times, [&](double t) { return t < end; }));
    out["phases"].push_back(
        {{"streams", streams}, {"begin", begin}, {"end", end}, {"tok_s", static_cast<double>(inside) / seconds}});
    all += inside;
  }
  out["wall_s"] = clients.now();
  out["tok_s"] = static_cast<double>(all) / (seconds * static_cast<double>(phases.size()));
  double gap = 0;
  std::size_t failed = 0;
  for (const auto& r : records) {
    failed += r->failure.has_value();
    for (std::size_t i = 1; i < r->times.size(); ++i)
      gap = std::max(gap, r->times[i] - r->times[i - 1]);
  }
  out["failed"] = failed;
  out["longest_gap_s"] = gap;
  const auto load = rt.load();
  out["preemptions"] = load.preemptions;
  for (const auto& m : load.moves)
    out["moves"].push_back({{"at", clients.now() - m.seconds_ago},
                            {"seconds", m.seconds},
                            {"kv_tokens", m.kv_tokens},
                            {"streamed_bytes", m.streamed_bytes},
                            {"reason", m.reason}});
  for (const auto& d : rt.memory())
    out["devices"].push_back({{"name", d.device}, {"budget_bytes", d.budget_bytes}, {"peak_bytes", d.peak_bytes}});
  out["memory"] = to_json(memory.end());
  return out;
}

} // namespace tropilla::bench
