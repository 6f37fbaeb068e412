// Clients that come to need more than they hold, driven by a virtual clock through thousands of schedules: all of them
// come to their end, whatever is cancelled, reclaimed and taken off the budget meanwhile.
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
  std::deque<lease> cache;                     ///< reclaimable
  bool later = false;                          ///< the cache gives back some time after it was asked, not at once
  std::map<std::string, std::size_t> promised; ///< by device: on its way back
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

  /// The cache's reclaimer.
  std::size_t reclaim(const std::string& device, std::size_t bytes) {
    std::size_t given = promised[device];
    while (given < bytes) { // from the start each time: letting go may have others called who change the cache
      const auto it = std::find_if(cache.begin(), cache.end(), [&](const lease& l) { return l.device() == device; });
      if (it == cache.end())
        break;
      given += it->bytes();
      const auto oldest = std::make_shared<lease>(std::move(*it));
      cache.erase(it);
      if (!later)
        continue;
      promised[device] += oldest->bytes();
      clock.after(1 + below(9), [this, device, oldest] {
        promised[device] -= oldest->bytes();
        oldest->reset();
      });
    }
    return given;
  }

  /// Puts a lease into the cache, and takes from the cache what others wait for already.
  void keep(lease l) {
    const std::string device(l.device());
    cache.push_back(std::move(l));
    if (const auto shortage = arbiter->usage(device).shortage; shortage > 0)
      reclaim(device, shortage);
  }
};

/// Goes through rounds. In each it acquires a block, holds it, perhaps wants more, and gives all of it back, some of it
/// into the cache.
class client {
public:
  client(world& w, int rounds) : w_(w), rounds_(rounds) {}

  void start() {
    w_.clock.after(1 + w_.below(5), [this] { ask(w_.any_request()); });
  }
  [[nodiscard]] bool finished() const { return rounds_ == 0; }

private:
  void ask(const memory_request& request) {
    ++w_.asked;
    waiting_ = true;
    ticket_ = w_.arbiter->acquire(request, [this](memory_arbiter::grant g) {
      ++w_.answered;
      waiting_ = false;
      if (auto* granted = std::get_if<lease>(&g))
        held_.push_back(std::move(*granted));
      w_.clock.after(1 + w_.below(9), [this] { held_.empty() ? end() : more(); });
    });
    if (waiting_ && w_.below(8) == 0)
      w_.clock.after(1 + w_.below(20), [this, t = *ticket_] {
        w_.arbiter->cancel(t); // also when it was answered long ago
      });
  }

  /// Wants one block more: without waiting, or by giving all back and asking for as much in one block.
  void more() {
    if (w_.below(4) == 0 || held_.size() > 4)
      return end();
    auto request = w_.any_request();
    auto g = w_.arbiter->try_acquire(request);
    if (auto* l = std::get_if<lease>(&g)) {
      held_.push_back(std::move(*l));
      w_.clock.after(1 + w_.below(9), [this] { more(); });
      return;
    }
    for (const auto& l : held_)
      request.bytes = std::min(most, request.bytes + l.bytes());
    held_.clear(); // preempted
    ask(request);
  }

  void end() {
    if (!held_.empty() && w_.below(2) == 0) { // some of it stays for others, until they need the bytes
      lease last = std::move(held_.back());
      held_.pop_back();
      w_.keep(std::move(last));
    }
    held_.clear();
    if (--rounds_ > 0)
      start();
  }

  world& w_;
  int rounds_;
  bool waiting_ = false;
  std::optional<memory_arbiter::ticket> ticket_;
  std::vector<lease> held_;
};

} // namespace

TEST_CASE("two streams of requests that fit alone never wait for each other for ever", "[memory_arbiter]") {
  int total = 0;
  for (unsigned seed = 0; seed < schedules; ++seed) {
    world w(seed);
    w.later = w.below(2) == 0;
    std::vector<reclaim_registration> registered;
    for (const auto& d : devices)
      registered.push_back(w.arbiter->add_reclaimer(d, [&, d](std::size_t bytes) { return w.reclaim(d, bytes); }));
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

TEST_CASE("two who hold and wait block each other, and two who give back before they ask again don't",
          "[memory_arbiter]") {
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

  const memory_request all{"host:0", most, purpose::kv};
  a->acquire(half, into(first));
  a->acquire(rest, into(second));
  CHECK(std::holds_alternative<refusal>(a->try_acquire(rest)));
  first.clear();
  a->acquire(all, into(first));
  CHECK(std::holds_alternative<refusal>(a->try_acquire(half))); // there is room, and the first waits for it
  second.clear();
  CHECK(first.size() == 1);
  a->acquire(all, into(second));
  CHECK(second.empty());
  first.clear();
  CHECK(second.size() == 1);
}
