// What happens when there are too few bytes: who is asked, what goes back to the system, who is refused.
#include "memory/arbiter.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t kib = 1024;

memory_request wants(std::size_t bytes, priority rank = priority::normal) {
  return {"host:0", bytes, purpose::kv, rank};
}

std::shared_ptr<memory_arbiter> with_budget(std::size_t budget) {
  auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, 1024 * kib, budget, 64);
  return a;
}

lease take(memory_arbiter& a, std::size_t bytes) {
  return std::get<lease>(a.try_acquire(wants(bytes)));
}

/// Holds leases and gives them back when asked.
struct holder {
  std::vector<lease> held;
  std::vector<std::size_t> asked;

  reclaimer answer() {
    return [this](std::size_t bytes) {
      asked.push_back(bytes);
      std::size_t given = 0;
      while (given < bytes && !held.empty()) {
        given += held.back().bytes();
        held.pop_back();
      }
      return given;
    };
  }
};

} // namespace

TEST_CASE("reclaimers are asked in the order in which they were registered, and for no more than is short",
          "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  std::array<holder, 3> holders;
  std::vector<reclaim_registration> registered;
  for (auto& h : holders)
    registered.push_back(a->add_reclaimer("host:0", h.answer()));
  for (auto& h : holders)
    for (int i = 0; i < 3; ++i)
      h.held.push_back(take(*a, 10 * kib));

  lease got;
  a->acquire(wants(25 * kib), [&](memory_arbiter::grant g) { got = std::get<lease>(std::move(g)); }); // 10 KiB are free
  CHECK(got);
  CHECK(holders[0].asked == std::vector<std::size_t>{15 * kib});
  CHECK(holders[0].held.size() == 1);
  CHECK(holders[1].asked.empty());

  got.reset();
  a->acquire(wants(80 * kib), [&](memory_arbiter::grant g) { got = std::get<lease>(std::move(g)); }); // 30 KiB are free
  CHECK(got);
  CHECK(holders[0].held.empty());
  CHECK(holders[1].held.empty());
  CHECK(holders[2].held.size() == 2);
  CHECK(holders[1].asked.front() == 40 * kib);
  CHECK(holders[2].asked.front() == 10 * kib);

  got.reset();
  registered[0].reset();
  registered[0] = a->add_reclaimer("host:0", holders[0].answer()); // from now on the last
  holders[0].held.push_back(take(*a, 10 * kib));
  a->acquire(wants(80 * kib), [&](memory_arbiter::grant g) { got = std::get<lease>(std::move(g)); }); // 70 KiB are free
  CHECK(got);
  CHECK(holders[0].held.size() == 1);
  CHECK(holders[2].held.size() == 1);
}

TEST_CASE("what was promised and comes later is not asked for twice", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  std::vector<lease> slots;
  for (int i = 0; i < 10; ++i)
    slots.push_back(take(*a, 10 * kib));
  std::size_t promised = 0; // of the slots, from its end
  int beyond = 0;
  const auto first = a->add_reclaimer("host:0", [&](std::size_t bytes) {
    promised = std::max(promised, (bytes + 10 * kib - 1) / (10 * kib));
    return promised * 10 * kib;
  });
  const auto second = a->add_reclaimer("host:0", [&](std::size_t) {
    ++beyond;
    return std::size_t{0};
  });
  std::vector<lease> got;
  const auto keep = [&](memory_arbiter::grant g) { got.push_back(std::get<lease>(std::move(g))); };
  a->acquire(wants(20 * kib), keep);
  CHECK(promised == 2);
  a->acquire(wants(10 * kib), keep);
  CHECK(promised == 3);
  CHECK(a->usage("host:0").shortage == 30 * kib);
  for (; promised > 0; --promised)
    slots.pop_back();
  CHECK(got.size() == 2);
  CHECK(slots.size() == 7);
  CHECK(beyond == 0);
}

TEST_CASE("a budget that falls below what is in use is reached by asking, and back up it serves who waits",
          "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  holder prefixes;
  auto registered = a->add_reclaimer("host:0", prefixes.answer());
  for (int i = 0; i < 10; ++i)
    prefixes.held.push_back(take(*a, 10 * kib));
  a->set_budget("host:0", 75 * kib);
  CHECK(prefixes.asked.front() == 25 * kib);
  CHECK(a->usage("host:0").in_use == 70 * kib);
  registered.reset();
  prefixes.asked.clear();
  int granted = 0;
  a->acquire(wants(20 * kib),
             [&](const memory_arbiter::grant& g) { granted += std::holds_alternative<lease>(g) ? 1 : 0; });
  CHECK(prefixes.asked.empty());
  CHECK(granted == 0);
  a->set_budget("host:0", 90 * kib);
  CHECK(granted == 1);
}

TEST_CASE("bytes that come back have reclaimers asked for what is still short", "[memory_arbiter]") {
  const auto a = with_budget(50 * kib);
  lease running = take(*a, 40 * kib), other = take(*a, 5 * kib), last = take(*a, 5 * kib);
  holder prefixes;
  const auto registered = a->add_reclaimer("host:0", prefixes.answer());
  bool granted = false;
  a->acquire(wants(10 * kib), [&](const memory_arbiter::grant& g) { granted = std::holds_alternative<lease>(g); });
  CHECK(!granted);
  CHECK(prefixes.asked == std::vector<std::size_t>{10 * kib});
  prefixes.held.push_back(std::move(running)); // the sequence ended, its pages stay for others
  CHECK(a->usage("host:0").shortage == 10 * kib);
  other.reset();
  CHECK(granted);
  CHECK(prefixes.asked == std::vector<std::size_t>{10 * kib, 5 * kib});
  last.reset(); // nobody lacks anything
  CHECK(prefixes.asked.size() == 2);
}

TEST_CASE("a reclaimer may end its own registration, and is not asked again", "[memory_arbiter]") {
  const auto a = with_budget(10 * kib);
  const lease all = take(*a, 10 * kib);
  reclaim_registration registered;
  int asked = 0;
  registered = a->add_reclaimer("host:0", [&](std::size_t) {
    ++asked;
    registered.reset();
    return std::size_t{0};
  });
  std::vector<memory_arbiter::ticket> waiting;
  for (int i = 0; i < 2; ++i)
    waiting.push_back(a->acquire(wants(kib), [](const memory_arbiter::grant&) {}));
  CHECK(asked == 1);
  for (const auto ticket : waiting)
    CHECK(a->cancel(ticket));
}

TEST_CASE("a request that has room but no place has reclaimers asked, too", "[memory_arbiter]") {
  const auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, 40 * kib, 40 * kib, 64); // no address space beyond the budget
  holder prefixes;
  const auto registered = a->add_reclaimer("host:0", prefixes.answer());
  std::vector<lease> all;
  for (int i = 0; i < 4; ++i)
    all.push_back(take(*a, 10 * kib));
  prefixes.held = {all[1], all[3]};
  all = {}; // 0 and 2 are free, 1 and 3 cached
  CHECK(std::holds_alternative<refusal>(a->try_acquire(wants(20 * kib))));
  bool granted = false;
  a->acquire(wants(20 * kib), [&](const memory_arbiter::grant& g) { granted = std::holds_alternative<lease>(g); });
  CHECK(granted);
}

TEST_CASE("memory that lies elsewhere counts against the budget and lives as long as its lease", "[memory_arbiter]") {
  const auto a = with_budget(10 * kib);
  std::array<std::byte, 16> mapped{};
  bool gone = false;
  std::shared_ptr<void> keep(mapped.data(), [&](void*) { gone = true; });
  lease copy;
  {
    auto g = a->try_acquire({"host:0", 6 * kib, purpose::weights, priority::normal,
                             outside_memory{mapped.data(), std::exchange(keep, {})}});
    copy = std::get<lease>(std::move(g));
  }
  CHECK(copy.data() == mapped.data());
  const auto u = a->usage("host:0");
  CHECK(u.in_use == 6 * kib);
  CHECK(u.by_purpose[static_cast<std::size_t>(purpose::weights)] == 6 * kib);
  CHECK(u.pool.in_use == 0);
  CHECK(std::holds_alternative<refusal>(a->try_acquire(wants(5 * kib))));
  CHECK(!gone);
  {
    // Again, though the budget would not hold it twice.
    auto second = std::get<lease>(a->try_acquire(
        {"host:0", 6 * kib, purpose::weights, priority::normal, outside_memory{mapped.data(), nullptr}}));
    CHECK(a->usage("host:0").in_use == 6 * kib);
    std::swap(copy, second);
    second.reset();
    CHECK(a->usage("host:0").in_use == 6 * kib); // whichever goes first
    CHECK(gone);
    CHECK(std::holds_alternative<refusal>(a->try_acquire(wants(5 * kib))));
  }
  copy.reset();
  CHECK(gone);
  CHECK(a->usage("host:0").in_use == 0);
}

TEST_CASE("the n-th acquisition is refused for every n, and nothing is left behind", "[memory_arbiter]") {
  for (std::uint64_t n = 1; n <= 4; ++n) {
    const auto a = with_budget(100 * kib);
    a->refuse_acquisition(n);
    std::vector<bool> refused;
    std::vector<lease> held;
    for (int i = 0; i < 2; ++i) {
      refused.push_back(std::holds_alternative<refusal>(a->try_acquire(wants(kib))));
      a->acquire(wants(kib),
                 [&](const memory_arbiter::grant& g) { refused.push_back(std::holds_alternative<refusal>(g)); });
    }
    std::vector<bool> expected(4);
    expected[n - 1] = true;
    CHECK(refused == expected);
    CHECK(a->usage("host:0").in_use == 0);
    CHECK(a->usage("host:0").waiters == 0);
  }
}
