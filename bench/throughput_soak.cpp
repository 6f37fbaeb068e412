// Runs the soak of bench_throughput: full load with cancels and clients that leave or do not read.
#include "bench/throughput_modes.hpp"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <random>
#include <thread>

namespace tropilla::bench {

namespace {

/// The process's resources that must not grow.
struct footprint {
  std::size_t rss_bytes = 0, descriptors = 0, threads = 0;
};

footprint read_footprint() {
  footprint f;
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("VmRSS:"))
      f.rss_bytes = std::stoul(line.substr(6)) * 1024;
  const auto entries = [](const char* folder) {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
  };
  f.descriptors = entries("/proc/self/fd");
  f.threads = entries("/proc/self/task");
  return f;
}

json to_json(const footprint& f) {
  return {{"rss_bytes", f.rss_bytes}, {"descriptors", f.descriptors}, {"threads", f.threads}};
}

/// A client that submitted and will be told.
struct client {
  std::shared_ptr<record> what;
  std::size_t tokens = 0;
  bool known = false;                 ///< its reply must be the known one
  std::optional<reply_ticket> ticket; ///< of one that will be cancelled
  double cancel_at = 0;
};

/// Counts of what the clients of a soak did and got.
struct counts {
  std::size_t submitted = 0, finished = 0, left = 0, cancelled = 0, abandoned = 0, wrong = 0, tokens = 0;
  std::string failure; ///< of a reply, the first
};

class soak {
public:
  soak(runtime& rt, std::uint64_t seed) : runtime_(rt), clients_(rt), random_(seed) {
    known_ = make(48, 32);
    const auto r = clients_.submit(known_);
    clients_.wait();
    known_ids_ = r->ids;
    ++counts_.submitted;
    ++counts_.finished;
  }

  /// Keeps `max_open` requests in the runtime for so long.
  void run(double seconds, std::size_t max_open) {
    const auto until = clients_.now() + seconds;
    while (clients_.now() < until) {
      for (auto& c : open_)
        if (c.ticket && c.cancel_at <= clients_.now()) {
          c.ticket->cancel();
          c.ticket.reset();
        }
      while (!unread_.empty() && unread_.front().first <= clients_.now())
        unread_.pop_front(); // the range goes with its reply unread
      collect();
      for (auto n = open_.size() + unread_.size(); n < max_open; ++n)
        submit_one();
      // Replies end by the millisecond; waiting for each would let cancels come late.
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  /// Ends the load: no more requests; clients that still wait get the rest of their replies.
  void end() {
    unread_.clear();
    clients_.wait();
    collect();
  }

  [[nodiscard]] const counts& so_far() const { return counts_; }
  [[nodiscard]] std::size_t endings() const { return clients_.endings(); }

private:
  std::size_t between(std::size_t least, std::size_t greatest) {
    return std::uniform_int_distribution<std::size_t>(least, greatest)(random_);
  }

  request make(std::size_t prompt, std::size_t tokens) {
    return {random_ids(prompt, random_(), runtime_.model().vocabulary), tokens, 0, {}};
  }

  void submit_one() {
    const auto kind = between(0, 99);
    auto r = make(between(8, 256), between(8, 128));
    if (kind < 10) { // disconnects without having read
      unread_.emplace_back(clients_.now() + 1e-3 * static_cast<double>(between(0, 3000)),
                           runtime_.generate(r.prompt, options_for(r)));
      ++counts_.abandoned;
      std::sort(unread_.begin(), unread_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      return;
    }
    ++counts_.submitted;
    client c;
    if (kind < 30) { // is cancelled, in the queue or in the middle of the reply
      c.what = clients_.submit(r, 0, &c.ticket);
      c.cancel_at = clients_.now() + 1e-3 * static_cast<double>(between(0, 3000));
    } else if (kind < 50) { // disconnects in the middle
      c.what = clients_.submit(r, between(1, r.tokens));
    } else {
      c.known = kind < 60;
      c.what = clients_.submit(c.known ? known_ : r);
    }
    c.tokens = c.known ? known_.tokens : r.tokens;
    open_.push_back(std::move(c));
  }

  void collect() {
    std::erase_if(open_, [&](client& c) {
      if (!c.what->ended)
        return false;
      const auto& r = *c.what;
      counts_.tokens += r.ids.size();
      const bool whole = !r.failure && r.cost.finish == finish_reason::length && r.ids.size() == c.tokens;
      counts_.finished += whole;
      const bool cancelled = r.cost.finish == finish_reason::cancelled;
      const bool gone = !r.failure && cancelled && c.cancel_at == 0 && r.ids.size() == r.leave_after;
      counts_.left += gone;
      const bool given_up = c.cancel_at > 0 && cancelled;
      counts_.cancelled += given_up;
      const bool right = gone || (!r.failure && (whole || given_up) && !(c.known && r.ids != known_ids_));
      counts_.wrong += !right;
      if (!right && r.failure && counts_.failure.empty())
        counts_.failure = r.failure->what();
      return true;
    });
  }

  runtime& runtime_;
  crowd clients_;
  std::mt19937_64 random_;
  request known_;
  std::vector<token_id> known_ids_;
  std::vector<client> open_;
  std::deque<std::pair<double, generation>> unread_; ///< when each goes, in order
  counts counts_;
};

/// Waits until nothing is computed and no request waits; false if that does not come. The bytes of a client that left
/// are given back soon, not at once.
bool comes_to_rest(const runtime& rt) {
  for (int i = 0; i < 1000; ++i) {
    if (const auto l = rt.load(); l.active == 0 && l.waiting == 0 && l.pages_in_use == 0)
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// A device's bytes in use for KV pages, which come when tokens come to lie on them.
std::size_t page_bytes_in_use(const memory_report& device) {
  for (const auto& p : device.purposes)
    if (p.purpose == "KV pages")
      return p.in_use_bytes;
  return 0;
}

/// The growth of resident memory that is allowed between the first fifth and the end. The heap of a process with
/// several threads breathes by a few MiB; a leak of a KiB per request is 20 MiB in ten minutes. KV pages are not
/// counted.
constexpr std::size_t growth_allowed = std::size_t{8} << 20;

} // namespace

json run_soak(const throughput_options& o) {
  const double seconds = o.seconds > 0 ? o.seconds : 600;
  constexpr std::size_t context = 256 + 128;
  // Keys and values for half of the sequences, so that pages run out, too; replies that nobody reads end by themselves.
  auto rt = open_runtime(o, o.sequences, context, std::max<std::size_t>(1, o.sequences / 2) * context, 64);
  soak s(rt, o.seed);
  const auto held_without_pages = [&] {
    const auto memory = rt.memory().front();
    return memory.in_use_bytes - page_bytes_in_use(memory);
  };
  const auto held = held_without_pages();
  json samples = json::array();
  footprint early, late;
  // Buffers and pages are touched for the first time in the first of these.
  constexpr int parts = 10;
  for (int i = 0; i < parts; ++i) {
    s.run(seconds / parts, 3 * o.sequences);
    late = read_footprint();
    late.rss_bytes -= std::min(late.rss_bytes, page_bytes_in_use(rt.memory().front()));
    if (i == 1)
      early = late;
    samples.push_back(to_json(late));
  }
  s.end();
  const bool rests = comes_to_rest(rt);
  const auto memory = rt.memory().front();
  const auto& c = s.so_far();
  const bool grows = late.rss_bytes > early.rss_bytes + growth_allowed || late.descriptors > early.descriptors ||
                     late.threads > early.threads;
  const bool past_plan = memory.peak_bytes > rt.plan().total_bytes || held_without_pages() != held;
  json out = {{"mode", "soak"},
              {"seconds", seconds},
              {"submitted", c.submitted},
              {"endings", s.endings()},
              {"finished", c.finished},
              {"left", c.left},
              {"cancelled", c.cancelled},
              {"abandoned", c.abandoned},
              {"wrong", c.wrong},
              {"first_failure", c.failure},
              {"tokens", c.tokens},
              {"preemptions", rt.load().preemptions},
              {"restarts", rt.load().restarts},
              {"comes_to_rest", rests},
              {"planned_bytes", rt.plan().total_bytes},
              {"peak_bytes", memory.peak_bytes},
              {"held_bytes", {held, held_without_pages()}},
              {"early", to_json(early)},
              {"late", to_json(late)},
              {"samples", samples}};
  out["failed"] =
      c.wrong + (s.endings() == c.submitted ? 0 : 1) + (grows ? 1 : 0) + (past_plan ? 1 : 0) + (rests ? 0 : 1);
  return out;
}

} // namespace tropilla::bench
