// Draws requests from the mix, lets them live, and watches the pool.
#include "bench/pool_replay.hpp"

#include "memory/pool.hpp"
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
    get("least", m.least_slots, slots);
    get("most", m.most_slots, slots);
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
      : mix(m), with(o), blocks(o.capacity, m.alignment), random(o.seed) {}

  replay_result run() {
    const auto start = std::chrono::steady_clock::now();
    for (const std::size_t bytes : mix.resident_bytes)
      (void)take(bytes, pool::end::high);
    while (slots.size() < mix.most_slots)
      add_slot();
    happen(0, what::arrival);
    while (result.operations < with.operations && !future.empty()) {
      const happening now = future.top();
      future.pop();
      pass(now.at);
      handle(now);
    }
    const auto s = blocks.statistics();
    result.scatter_end = s.fragmentation();
    result.simulated_s = time;
    result.waste = static_cast<double>(most_taken) / static_cast<double>(s.high_water) - 1;
    result.in_use_mean = weighted_in_use / time;
    result.in_use_peak = static_cast<double>(s.high_water) / static_cast<double>(mix.budget_bytes);
    summarise();
    result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

private:
  // Time and figures.

  void pass(double to) {
    const auto s = blocks.statistics();
    const double f = s.fragmentation(), dt = to - time;
    most_taken = std::max(most_taken, s.capacity - s.largest_free);
    histogram[static_cast<std::size_t>(f * last_bin)] += dt;
    weighted += f * dt;
    weighted_in_use += static_cast<double>(s.in_use) / static_cast<double>(mix.budget_bytes) * dt;
    time = to;
  }

  void summarise() {
    result.scatter_mean = weighted / time;
    double passed = 0;
    for (std::size_t i = 0; i < histogram.size() && passed < 0.95 * time; ++i) {
      passed += histogram[i];
      result.scatter_p95 = static_cast<double>(i + 1) / last_bin;
    }
  }

  void happen(double after, what kind, std::size_t who = 0, std::uint64_t life = 0) {
    future.push({time + after, kind, who, life});
  }

  double uniform() { return std::uniform_real_distribution<double>(0, 1)(random); }

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
    return blocks.rounded(bytes) <= mix.budget_bytes - blocks.statistics().in_use;
  }

  std::optional<pool::block> take(std::size_t bytes, pool::end from) {
    if (!has_room(bytes))
      return std::nullopt;
    const auto b = blocks.allocate(bytes, with.one_end ? pool::end::low : from);
    result.misplaced += b ? 0 : 1;
    result.operations += b ? 1 : 0;
    return b;
  }

  void give(pool::block b) {
    blocks.free(b);
    ++result.operations;
  }

  void give(std::vector<pool::block>& these) {
    for (const auto& b : these)
      give(b);
    these.clear();
  }

  void add_slot() {
    const auto slot = take(mix.slot_bytes, pool::end::high);
    if (!slot)
      return;
    slots.push_back(*slot);
    for (std::size_t i = 0; i < mix.staging_blocks; ++i)
      if (const auto b = take(mix.staging_bytes, pool::end::high))
        staging.push_back(*b);
    happen(mix.staging_s, what::staged);
  }

  /// Makes room in the order of pressure; false when nothing is left to take.
  bool reclaim(std::size_t bytes) {
    while (!has_room(bytes)) {
      if (slots.size() > mix.least_slots) {
        give(slots.back());
        slots.pop_back();
      } else if (!cached.empty()) {
        const std::size_t oldest = cached.front();
        leave_cache(oldest);
        give(all[oldest].pages);
        retire(oldest);
      } else if (!take_from_waiting()) {
        return false;
      }
    }
    return true;
  }

  /// The last in the queue loses the pages of its earlier turns: those who hold while they wait would wait for ever.
  bool take_from_waiting() {
    const auto last = std::find_if(waiting.rbegin(), waiting.rend(), [&](auto id) { return !all[id].pages.empty(); });
    if (last == waiting.rend() || *last == waiting.front())
      return false;
    auto& s = all[*last];
    give(s.pages);
    s.to_prefill += s.tokens;
    s.tokens = 0;
    return true;
  }

  // Sequences.

  std::size_t make(const request_class& kind) {
    std::size_t id = all.size();
    if (vacant.empty()) {
      all.emplace_back();
    } else {
      id = vacant.back();
      vacant.pop_back();
    }
    all[id].kind = &kind;
    all[id].tokens = 0;
    return id;
  }

  void retire(std::size_t id) {
    ++all[id].life;
    vacant.push_back(id);
  }

  void leave_cache(std::size_t id) {
    cached.erase(all[id].cached);
    ++all[id].life;
  }

  void arrive() {
    const double hour = std::fmod(time / 3600, 24);
    happen(-std::log(1 - uniform()) / (mix.requests_per_s * mix.rate_by_hour[static_cast<std::size_t>(hour)]),
           what::arrival);
    double u = uniform();
    const request_class* kind = &mix.classes.back();
    for (const auto& c : mix.classes) {
      if (u < c.share) {
        kind = &c;
        break;
      }
      u -= c.share;
    }
    begin_turn(make(*kind));
  }

  void begin_turn(std::size_t id) {
    auto& s = all[id];
    ++result.requests;
    s.to_prefill = static_cast<std::size_t>(draw(s.kind->prompt_tokens));
    s.to_decode = static_cast<std::size_t>(draw(s.kind->reply_tokens));
    waiting.push_back(id);
    admit();
  }

  bool grow(sequence& s, std::size_t tokens) {
    while (s.pages.size() * mix.kv_page_tokens < tokens) {
      const auto page = take(mix.kv_page_bytes, pool::end::low);
      if (!page)
        return false;
      s.pages.push_back(*page);
    }
    s.tokens = tokens;
    return true;
  }

  void admit() {
    while (!waiting.empty()) {
      auto& s = all[waiting.front()];
      const std::size_t tokens = s.tokens + s.to_prefill;
      const std::size_t pages = (tokens + mix.kv_page_tokens - 1) / mix.kv_page_tokens;
      s.activation_bytes = std::min(s.to_prefill, mix.activation_rows) * mix.activation_bytes_per_row;
      const std::size_t bytes = (pages - std::min(pages, s.pages.size())) * mix.kv_page_bytes + s.activation_bytes +
                                mix.logits_bytes + 2 * mix.alignment;
      if (!reclaim(bytes))
        return;
      s.activations = take(s.activation_bytes, pool::end::high);
      s.logits = take(mix.logits_bytes, pool::end::high);
      if (!s.activations || !s.logits || !grow(s, tokens)) {
        preempt(waiting.front()); // there was room but no place: counted, and tried again when something comes back
        waiting.pop_front();
        return;
      }
      happen(static_cast<double>(s.to_prefill) / mix.prefill_tokens_per_s, what::prefilled, waiting.front(), s.life);
      waiting.pop_front();
    }
    if (slots.size() < mix.most_slots && has_room(4 * mix.slot_bytes))
      add_slot(); // the window deepens again when there is plenty
  }

  void preempt(std::size_t id) {
    auto& s = all[id];
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
    ++result.preempted;
    waiting.push_back(id);
  }

  void decode_on(std::size_t id) {
    auto& s = all[id];
    if (s.to_decode == 0) {
      finish(id);
      return;
    }
    const std::size_t n = std::min(s.to_decode, mix.kv_page_tokens);
    const std::size_t needed = (s.tokens + n + mix.kv_page_tokens - 1) / mix.kv_page_tokens;
    const bool fits = needed <= s.pages.size() || reclaim(mix.kv_page_bytes);
    if (!fits || !grow(s, s.tokens + n)) {
      preempt(id);
      return;
    }
    s.to_decode -= n;
    happen(static_cast<double>(n) / mix.decode_tokens_per_s, what::decoded, id, s.life);
  }

  void finish(std::size_t id) {
    auto& s = all[id];
    give(*s.logits);
    s.logits.reset();
    if (uniform() < s.kind->continues && s.tokens < 16 * mix.activation_rows) {
      s.cached = cached.insert(cached.end(), id);
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
      give(staging);
      return;
    }
    auto& s = all[now.who];
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

  const request_mix& mix;
  const replay_options with;
  pool blocks;
  std::mt19937_64 random;
  std::priority_queue<happening, std::vector<happening>, std::greater<>> future;
  std::deque<sequence> all;
  std::vector<std::size_t> vacant;
  std::deque<std::size_t> waiting;
  std::list<std::size_t> cached; ///< the oldest first
  std::vector<pool::block> slots, staging;
  std::size_t most_taken = 0; ///< bytes of address space outside of the largest free block
  double time = 0, weighted = 0, weighted_in_use = 0;
  static constexpr double last_bin = 1000;
  std::array<double, 1001> histogram{}; ///< seconds by fragmentation in thousandths
  replay_result result;
};

} // namespace

replay_result replay(const request_mix& mix, const replay_options& options) {
  return day(mix, options).run();
}

} // namespace tropilla::bench
