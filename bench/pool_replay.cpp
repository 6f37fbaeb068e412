// Draws requests from the mix, keeps them for their lifetime, and watches the pool.
#include "bench/pool_replay.hpp"

#include "memory/pool.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <list>
#include <optional>
#include <queue>
#include <random>

namespace tropilla::bench {

request_mix read_mix(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw error(errc::io_error, fmt::format("{} can't be read; --mix names the request mix", path));
  try {
    const auto j = nlohmann::json::parse(in);
    request_mix m;
    const auto get = [&](const char* name, auto& to, const nlohmann::json& from) { from.at(name).get_to(to); };
    get("budget_bytes", m.budget_bytes, j);
    get("alignment", m.alignment, j);
    get("kv_page_tokens", m.kv_page_tokens, j);
    get("kv_page_bytes", m.kv_page_bytes, j);
    get("resident_bytes", m.resident_bytes, j);
    get("slot_bytes", m.slot_bytes, j);
    const auto& slots = j.at("slots");
    get("least", m.min_slots, slots);
    get("most", m.max_slots, slots);
    get("staging_bytes", m.staging_bytes, slots);
    get("staging_blocks", m.staging_blocks, slots);
    get("staging_s", m.staging_s, slots);
    get("activation_bytes_per_row", m.activation_bytes_per_row, j);
    get("activation_rows", m.activation_rows, j);
    get("logits_bytes", m.logits_bytes, j);
    get("prefill_tokens_per_s", m.prefill_tokens_per_s, j);
    get("decode_tokens_per_s", m.decode_tokens_per_s, j);
    get("requests_per_s", m.requests_per_s, j);
    get("rate_by_hour", m.rate_by_hour, j);
    for (const auto& c : j.at("classes")) {
      request_class k;
      get("name", k.name, c);
      get("share", k.share, c);
      get("continues", k.continues, c);
      get("prompt_tokens", k.prompt_tokens, c);
      get("reply_tokens", k.reply_tokens, c);
      get("pause_s", k.pause_s, c);
      if (k.prompt_tokens.size() != 6 || k.reply_tokens.size() != 6 || k.pause_s.size() != 6)
        throw error(errc::malformed_file, fmt::format("{}: class {} must have six quantiles a list", path, k.name));
      m.classes.push_back(std::move(k));
    }
    if (m.rate_by_hour.size() != 24)
      throw error(errc::malformed_file,
                  fmt::format("{}: rate_by_hour has {} of 24 rates", path, m.rate_by_hour.size()));
    return m;
  } catch (const nlohmann::json::exception& e) {
    throw error(errc::malformed_file, fmt::format("{} is no request mix: {}", path, e.what()));
  }
}

namespace {

struct sequence {
  const request_class* kind = nullptr;
  std::vector<pool::block> pages;
  std::optional<pool::block> activations, logits;
  std::size_t activation_bytes = 0;
  std::size_t tokens = 0;     ///< that have pages
  std::size_t to_prefill = 0; ///< of the prompt, without what the pages hold already
  std::size_t to_decode = 0;
  std::uint64_t life = 0; ///< events of an earlier one mean nothing
  std::list<std::size_t>::iterator cached;
};

enum class what : std::uint8_t { arrival, prefilled, decoded, pause_over, staged };

struct happening {
  double at = 0;
  what kind{};
  std::size_t who = 0;
  std::uint64_t life = 0;
  bool operator>(const happening& other) const noexcept { return at > other.at; }
};

class day {
public:
  day(const request_mix& m, const replay_options& o)
      : mix_(m), options_(o), blocks_(o.capacity, m.alignment), random_(o.seed) {}

  replay_result run() {
    const auto start = std::chrono::steady_clock::now();
    for (const std::size_t bytes : mix_.resident_bytes)
      (void)take(bytes, pool::end::high);
    while (slots_.size() < mix_.max_slots)
      add_slot();
    happen(0, what::arrival);
    while (result_.operations < options_.operations && !future_.empty()) {
      const happening now = future_.top();
      future_.pop();
      pass(now.at);
      handle(now);
    }
    const auto s = blocks_.statistics();
    result_.scatter_end = s.fragmentation();
    result_.simulated_s = time_;
    result_.waste = static_cast<double>(max_taken_) / static_cast<double>(s.high_water) - 1;
    result_.in_use_mean = weighted_in_use_ / time_;
    result_.in_use_peak = static_cast<double>(s.high_water) / static_cast<double>(mix_.budget_bytes);
    summarise();
    result_.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result_;
  }

private:
  // Time and figures.

  void pass(double to) {
    const auto s = blocks_.statistics();
    const double f = s.fragmentation(), dt = to - time_;
    max_taken_ = std::max(max_taken_, s.capacity - s.largest_free);
    histogram_[static_cast<std::size_t>(f * last_bin)] += dt;
    weighted_ += f * dt;
    weighted_in_use_ += static_cast<double>(s.in_use) / static_cast<double>(mix_.budget_bytes) * dt;
    time_ = to;
  }

  void summarise() {
    result_.scatter_mean = weighted_ / time_;
    double passed = 0;
    for (std::size_t i = 0; i < histogram_.size() && passed < 0.95 * time_; ++i) {
      passed += histogram_[i];
      result_.scatter_p95 = static_cast<double>(i + 1) / last_bin;
    }
  }

  void happen(double after, what kind, std::size_t who = 0, std::uint64_t life = 0) {
    future_.push({time_ + after, kind, who, life});
  }

  double uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }

  double draw(const quantiles& q) {
    constexpr std::array<double, 6> at{0, 0.25, 0.5, 0.75, 0.95, 1};
    const double u = uniform();
    std::size_t i = 1;
    while (u > at[i])
      ++i;
    return q[i - 1] + (q[i] - q[i - 1]) * (u - at[i - 1]) / (at[i] - at[i - 1]);
  }

  // Bytes.

  [[nodiscard]] bool has_room(std::size_t bytes) const {
    return blocks_.rounded(bytes) <= mix_.budget_bytes - blocks_.statistics().in_use;
  }

  std::optional<pool::block> take(std::size_t bytes, pool::end from) {
    if (!has_room(bytes))
      return std::nullopt;
    const auto b = blocks_.allocate(bytes, options_.one_end ? pool::end::low : from);
    result_.misplaced += b ? 0 : 1;
    result_.operations += b ? 1 : 0;
    return b;
  }

  void give(pool::block b) {
    blocks_.free(b);
    ++result_.operations;
  }

  void give(std::vector<pool::block>& these) {
    for (const auto& b : these)
      give(b);
    these.clear();
  }

  void add_slot() {
    const auto slot = take(mix_.slot_bytes, pool::end::high);
    if (!slot)
      return;
    slots_.push_back(*slot);
    for (std::size_t i = 0; i < mix_.staging_blocks; ++i)
      if (const auto b = take(mix_.staging_bytes, pool::end::high))
        staging_.push_back(*b);
    happen(mix_.staging_s, what::staged);
  }

  /// Makes room in the order of pressure; false when nothing is left to take.
  bool reclaim(std::size_t bytes) {
    while (!has_room(bytes)) {
      if (slots_.size() > mix_.min_slots) {
        give(slots_.back());
        slots_.pop_back();
      } else if (!cached_.empty()) {
        const std::size_t oldest = cached_.front();
        leave_cache(oldest);
        give(all_[oldest].pages);
        retire(oldest);
      } else if (!take_from_waiting()) {
        return false;
      }
    }
    return true;
  }

  /// Takes the pages of its earlier turns from the last request in the queue: requests that hold pages while they wait
  /// would wait for ever.
  bool take_from_waiting() {
    const auto last =
        std::find_if(waiting_.rbegin(), waiting_.rend(), [&](auto id) { return !all_[id].pages.empty(); });
    if (last == waiting_.rend() || *last == waiting_.front())
      return false;
    auto& s = all_[*last];
    give(s.pages);
    s.to_prefill += s.tokens;
    s.tokens = 0;
    return true;
  }

  // Sequences.

  std::size_t make(const request_class& kind) {
    std::size_t id = all_.size();
    if (vacant_.empty()) {
      all_.emplace_back();
    } else {
      id = vacant_.back();
      vacant_.pop_back();
    }
    all_[id].kind = &kind;
    all_[id].tokens = 0;
    return id;
  }

  void retire(std::size_t id) {
    ++all_[id].life;
    vacant_.push_back(id);
  }

  void leave_cache(std::size_t id) {
    cached_.erase(all_[id].cached);
    ++all_[id].life;
  }

  void arrive() {
    const double hour = std::fmod(time_ / 3600, 24);
    happen(-std::log(1 - uniform()) / (mix_.requests_per_s * mix_.rate_by_hour[static_cast<std::size_t>(hour)]),
           what::arrival);
    double u = uniform();
    const request_class* kind = &mix_.classes.back();
    for (const auto& c : mix_.classes) {
      if (u < c.share) {
        kind = &c;
        break;
      }
      u -= c.share;
    }
    begin_turn(make(*kind));
  }

  void begin_turn(std::size_t id) {
    auto& s = all_[id];
    ++result_.requests;
    s.to_prefill = static_cast<std::size_t>(draw(s.kind->prompt_tokens));
    s.to_decode = static_cast<std::size_t>(draw(s.kind->reply_tokens));
    waiting_.push_back(id);
    admit();
  }

  bool grow(sequence& s, std::size_t tokens) {
    while (s.pages.size() * mix_.kv_page_tokens < tokens) {
      const auto page = take(mix_.kv_page_bytes, pool::end::low);
      if (!page)
        return false;
      s.pages.push_back(*page);
    }
    s.tokens = tokens;
    return true;
  }

  void admit() {
    while (!waiting_.empty()) {
      auto& s = all_[waiting_.front()];
      const std::size_t tokens = s.tokens + s.to_prefill;
      const std::size_t pages = divide_up(tokens, mix_.kv_page_tokens);
      s.activation_bytes = std::min(s.to_prefill, mix_.activation_rows) * mix_.activation_bytes_per_row;
      const std::size_t bytes = (pages - std::min(pages, s.pages.size())) * mix_.kv_page_bytes + s.activation_bytes +
                                mix_.logits_bytes + 2 * mix_.alignment;
      if (!reclaim(bytes))
        return;
      s.activations = take(s.activation_bytes, pool::end::high);
      s.logits = take(mix_.logits_bytes, pool::end::high);
      if (!s.activations || !s.logits || !grow(s, tokens)) {
        preempt(waiting_.front()); // there was room but no place: counted, and tried again when something comes back
        waiting_.pop_front();
        return;
      }
      happen(static_cast<double>(s.to_prefill) / mix_.prefill_tokens_per_s, what::prefilled, waiting_.front(), s.life);
      waiting_.pop_front();
    }
    if (slots_.size() < mix_.max_slots && has_room(4 * mix_.slot_bytes))
      add_slot(); // the window deepens again when there is plenty
  }

  void preempt(std::size_t id) {
    auto& s = all_[id];
    give(s.pages);
    if (s.activations)
      give(*s.activations);
    if (s.logits)
      give(*s.logits);
    s.activations.reset();
    s.logits.reset();
    ++s.life;
    s.to_prefill += s.tokens;
    s.tokens = 0;
    ++result_.preempted;
    waiting_.push_back(id);
  }

  void decode_on(std::size_t id) {
    auto& s = all_[id];
    if (s.to_decode == 0) {
      finish(id);
      return;
    }
    const std::size_t n = std::min(s.to_decode, mix_.kv_page_tokens);
    const std::size_t needed = divide_up(s.tokens + n, mix_.kv_page_tokens);
    const bool fits = needed <= s.pages.size() || reclaim(mix_.kv_page_bytes);
    if (!fits || !grow(s, s.tokens + n)) {
      preempt(id);
      return;
    }
    s.to_decode -= n;
    happen(static_cast<double>(n) / mix_.decode_tokens_per_s, what::decoded, id, s.life);
  }

  void finish(std::size_t id) {
    auto& s = all_[id];
    give(*s.logits);
    s.logits.reset();
    if (uniform() < s.kind->continues && s.tokens < 16 * mix_.activation_rows) {
      s.cached = cached_.insert(cached_.end(), id);
      happen(draw(s.kind->pause_s), what::pause_over, id, s.life);
    } else {
      give(s.pages);
      retire(id);
    }
    admit();
  }

  void handle(const happening& now) {
    if (now.kind == what::arrival)
      return arrive();
    if (now.kind == what::staged) {
      give(staging_);
      return;
    }
    auto& s = all_[now.who];
    if (s.life != now.life)
      return;
    if (now.kind == what::pause_over) {
      leave_cache(now.who);
      return begin_turn(now.who);
    }
    if (now.kind == what::prefilled) {
      give(*s.activations);
      s.activations.reset();
    }
    decode_on(now.who);
  }

  const request_mix& mix_;
  const replay_options options_;
  pool blocks_;
  std::mt19937_64 random_;
  std::priority_queue<happening, std::vector<happening>, std::greater<>> future_;
  std::deque<sequence> all_;
  std::vector<std::size_t> vacant_;
  std::deque<std::size_t> waiting_;
  std::list<std::size_t> cached_; ///< the oldest first
  std::vector<pool::block> slots_, staging_;
  std::size_t max_taken_ = 0; ///< bytes of address space outside of the largest free block
  double time_ = 0, weighted_ = 0, weighted_in_use_ = 0;
  static constexpr double last_bin = 1000;
  std::array<double, 1001> histogram_{}; ///< seconds by fragmentation in thousandths
  replay_result result_;
};

} // namespace

replay_result replay(const request_mix& mix, const replay_options& options) {
  return day(mix, options).run();
}

} // namespace tropilla::bench
