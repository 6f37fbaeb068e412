// Clients that need several blocks, driven by a virtual clock through thousands of schedules: all of them come to their
// end, whatever is cancelled, reclaimed and taken off the budget meanwhile.
#include "memory/arbiter.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

using namespace tropilla;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr unsigned schedules = 500;
#else
constexpr unsigned schedules = 10000;
#endif

constexpr std::size_t kib = 1024;
constexpr std::size_t most = 100 * kib; ///< budget of each device
const std::vector<std::string> devices{"host:0", "host:1"};

/// What happens when: no threads, no sleeping.
class virtual_clock {
public:
  void after(unsigned ticks, std::function<void()> what) { due_.emplace(now_ + ticks, std::move(what)); }
  /// False when nothing is left to happen.
  bool step() {
    if (due_.empty())
      return false;
    const auto next = due_.begin();
    now_ = next->first;
    const auto what = std::move(next->second);
    due_.erase(next);
    what();
    return true;
  }

private:
  std::uint64_t now_ = 0;
  std::multimap<std::uint64_t, std::function<void()>> due_; ///< equal times in order of insertion
};

struct world {
  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();
  virtual_clock clock;
  std::mt19937 random;
  std::deque<lease> cache; ///< reclaimable
  int asked = 0, answered = 0;

  explicit world(unsigned seed) : random(seed) {
    for (const auto& d : devices)
      arbiter->add_device(d, nullptr, most, most, 64); // no more address space than budget: places are scarce, too
  }

  unsigned below(unsigned n) { return static_cast<unsigned>(random() % n); }

  memory_request any_request() {
    return {devices[below(2)], (1 + below(48)) * kib, static_cast<purpose>(below(purpose_count)),
            static_cast<priority>(below(3))};
  }
};

/// Goes through rounds. In each it acquires a set of blocks, holds it, perhaps wants more, and gives all of it back,
/// some of it into the cache.
class client {
public:
  client(world& w, int rounds) : w_(w), rounds_(rounds) {}

  void start() {
    w_.clock.after(1 + w_.below(5), [this] { begin(); });
  }
  [[nodiscard]] bool finished() const { return rounds_ == 0; }

private:
  void begin() {
    wanted_.clear();
    for (unsigned i = 1 + w_.below(3); i > 0; --i) // of at most 48 KiB: two fit any device, alone
      wanted_.push_back(w_.any_request());
    for (const auto& d : devices) { // each client's set fits alone
      std::size_t sum = 0;
      std::erase_if(wanted_, [&](const auto& r) { return r.device == d && (sum += r.bytes) > most; });
    }
    ask();
  }

  void ask() {
    ++w_.asked;
    waiting_ = true;
    ticket_ = w_.arbiter->acquire_all(wanted_, [this](memory_arbiter::grants g) {
      ++w_.answered;
      waiting_ = false;
      if (auto* leases = std::get_if<0>(&g))
        held_ = std::move(*leases);
      w_.clock.after(1 + w_.below(9), [this] { held_.empty() ? end() : more(); });
    });
    if (waiting_ && w_.below(8) == 0)
      w_.clock.after(1 + w_.below(20), [this, t = *ticket_] {
        w_.arbiter->cancel(t); // also when it was answered long ago
      });
  }

  /// Wants one block more: without waiting, or by giving all back and asking for the whole.
  void more() {
    if (w_.below(2) == 0 || wanted_.size() > 4)
      return end();
    const auto request = w_.any_request();
    std::size_t sum = request.bytes;
    for (const auto& r : wanted_)
      sum += r.device == request.device ? r.bytes : 0;
    if (sum > most)
      return end();
    wanted_.push_back(request);
    auto g = w_.arbiter->try_acquire(request);
    if (auto* l = std::get_if<lease>(&g)) {
      held_.push_back(std::move(*l));
      w_.clock.after(1 + w_.below(9), [this] { more(); });
      return;
    }
    held_.clear(); // preempted
    ask();
  }

  void end() {
    if (!held_.empty() && w_.below(2) == 0) { // some of it stays for others, until they need the bytes
      const std::string device(held_.back().device());
      w_.cache.push_back(std::move(held_.back()));
      held_.pop_back();
      w_.arbiter->press(device);
    }
    held_.clear();
    if (--rounds_ > 0)
      start();
  }

  world& w_;
  int rounds_;
  bool waiting_ = false;
  std::optional<memory_arbiter::ticket> ticket_;
  std::vector<memory_request> wanted_;
  std::vector<lease> held_;
};

} // namespace

TEST_CASE("two streams of requests that fit alone never wait for each other for ever", "[memory_arbiter]") {
  int total = 0;
  for (unsigned seed = 0; seed < schedules; ++seed) {
    world w(seed);
    const bool later = w.below(2) == 0; // the cache gives back at once, or some time after it was asked
    std::vector<reclaim_registration> registered;
    std::map<std::string, std::size_t> promised;
    for (const auto& d : devices)
      registered.push_back(w.arbiter->add_reclaimer(d, reclaimable::cached_prefixes, [&, d](std::size_t bytes) {
        std::size_t given = promised[d];
        while (given < bytes) { // from the start each time: letting go may have others called who change the cache
          const auto it = std::find_if(w.cache.begin(), w.cache.end(), [&](const lease& l) { return l.device() == d; });
          if (it == w.cache.end())
            break;
          given += it->bytes();
          const auto oldest = std::make_shared<lease>(std::move(*it));
          w.cache.erase(it);
          if (!later)
            continue;
          promised[d] += oldest->bytes();
          w.clock.after(1 + w.below(9), [&promised, d, oldest] {
            promised[d] -= oldest->bytes();
            oldest->reset();
          });
        }
        return given;
      }));
    client a(w, 6), b(w, 6);
    a.start();
    b.start();
    for (unsigned i = w.below(4); i > 0; --i) // down, even below what is in use, and up again
      w.clock.after(1 + w.below(60), [&] {
        const auto& d = devices[w.below(2)];
        w.arbiter->set_budget(d, w.below(101) * kib);
        w.clock.after(1 + w.below(30), [&] { w.arbiter->set_budget(d, most); });
      });
    for (int steps = 0; w.clock.step(); ++steps)
      REQUIRE(steps < 10000);
    INFO("schedule " << seed);
    REQUIRE(a.finished());
    REQUIRE(b.finished());
    REQUIRE(w.asked == w.answered);
    w.cache.clear();
    for (const auto& u : w.arbiter->usage()) {
      REQUIRE(u.in_use == 0);
      REQUIRE(u.waiters == 0);
      REQUIRE(u.waiting_bytes == 0);
      REQUIRE(u.high_water <= most);
      REQUIRE(u.pool.largest_free == most);
    }
    total += w.answered;
  }
  CHECK(total > static_cast<int>(schedules) * 12);
}

TEST_CASE("two who hold and wait block each other, and asking for all at once they don't", "[memory_arbiter]") {
  const auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, most, most, 64);
  const memory_request half{"host:0", 60 * kib, purpose::kv}, rest{"host:0", 40 * kib, purpose::kv};
  std::vector<lease> first, second;
  const auto into = [](std::vector<lease>& held) {
    return [&held](memory_arbiter::grant g) { held.push_back(std::get<lease>(std::move(g))); };
  };
  a->acquire(half, into(first));
  a->acquire(rest, into(second));
  bool given_up = false;
  a->acquire(rest, into(first)); // fits alone: 100 KiB in all
  const auto ticket =
      a->acquire(half, [&](const memory_arbiter::grant& g) { given_up = std::holds_alternative<refusal>(g); });
  CHECK(first.size() == 1);
  CHECK(second.size() == 1); // and so it stays: why the arbiter's Liveness forbids it
  a->cancel(ticket);
  CHECK(given_up);
  second.clear();
  CHECK(first.size() == 2);
  first.clear();

  const auto both = [](std::vector<lease>& held) {
    return [&held](memory_arbiter::grants g) { held = std::get<0>(std::move(g)); };
  };
  a->acquire_all({half, rest}, both(first));
  a->acquire_all({rest, half}, both(second));
  CHECK(first.size() == 2);
  CHECK(second.empty());
  first.clear();
  CHECK(second.size() == 2);
}
