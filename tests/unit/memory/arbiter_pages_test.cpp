// Which bytes of a device have pages: those in use, and free ones as far as the budget has room for them.
#include "memory/arbiter.hpp"
#include "memory/commitment.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t kib = 1024;

/// A device of pages of 1 KiB that knows which ones it gave. Blocks are written when they are granted.
struct paged_device {
  explicit paged_device(std::size_t budget, std::size_t page_count = 64)
      : has_page(page_count), leased(page_count), memory_(page_count * kib) {
    device_setup setup{"host:0", memory_.data(), page_count * kib, budget, kib};
    setup.commit = [this](std::size_t offset, std::size_t bytes) -> std::optional<std::string> {
      std::size_t missing = 0;
      for (std::size_t p = offset / kib; p * kib < offset + bytes; ++p)
        missing += has_page[p] ? 0 : 1;
      if (pages() + missing > max_pages && ++refusals > 0)
        return "the device has no memory left";
      for (std::size_t p = offset / kib; p * kib < offset + bytes; ++p)
        has_page[p] = true;
      max_seen = std::max(max_seen, pages());
      return std::nullopt;
    };
    setup.trim = [this](std::size_t offset, std::size_t bytes) {
      ++trims;
      for (std::size_t p = offset / kib; p < (offset + bytes) / kib; ++p) {
        CHECK(!leased[p]);
        has_page[p] = false;
      }
    };
    arbiter->add_device(setup);
  }

  [[nodiscard]] lease take(std::size_t bytes, purpose used_for) {
    auto g = arbiter->try_acquire({"host:0", bytes, used_for});
    auto* l = std::get_if<lease>(&g);
    if (l == nullptr)
      return {};
    mark(*l, true);
    return std::move(*l);
  }
  void give_back(lease& l) {
    mark(l, false);
    l.reset();
  }
  [[nodiscard]] std::size_t pages() const {
    return static_cast<std::size_t>(std::count(has_page.begin(), has_page.end(), true));
  }

  std::vector<bool> has_page, leased;
  std::size_t max_pages = ~std::size_t{0}; ///< that the device has
  std::size_t max_seen = 0;
  int trims = 0, refusals = 0;
  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();

private:
  void mark(const lease& l, bool on) {
    const auto first = static_cast<std::size_t>(l.data() - memory_.data()) / kib;
    std::fill_n(leased.begin() + static_cast<std::ptrdiff_t>(first), (l.bytes() + kib - 1) / kib, on);
  }

  std::vector<std::byte> memory_;
};

} // namespace

TEST_CASE("two purposes that take turns at both ends of the pool never have more bytes with pages than the budget",
          "[memory_arbiter]") {
  constexpr std::size_t budget = 24;
  paged_device device(budget * kib);
  device.max_pages = budget;
  std::vector<lease> pages, weights;
  for (int round = 0; round < 10; ++round) {
    for (std::size_t blocks = 0; blocks <= 6; ++blocks) { // of 4 KiB: what one gives up the other takes
      const std::size_t of_pages = round % 2 ? blocks : 6 - blocks;
      for (auto* all : {&pages, &weights})
        while (all->size() > (all == &pages ? of_pages : 6 - of_pages)) {
          device.give_back(all->back());
          all->pop_back();
        }
      for (auto* all : {&pages, &weights})
        while (all->size() < (all == &pages ? of_pages : 6 - of_pages)) {
          all->push_back(device.take(4 * kib, all == &pages ? purpose::kv : purpose::weights));
          REQUIRE(all->back());
        }
    }
  }
  CHECK(device.max_seen == budget);
  CHECK(device.refusals == 0); // they went back before others were needed
  CHECK(device.trims > 0);
}

TEST_CASE("blocks that are taken again keep their pages while the budget has room for them", "[memory_arbiter]") {
  paged_device device(24 * kib);
  const auto kv = device.take(4 * kib, purpose::kv);
  auto resident = device.take(4 * kib, purpose::weights);
  for (int i = 0; i < 100; ++i) {
    auto first = device.take(5 * kib, purpose::ring), second = device.take(5 * kib, purpose::ring);
    if (i % 2)
      device.give_back(first);
    device.give_back(second);
    if (first)
      device.give_back(first);
  }
  CHECK(device.trims == 0);
  CHECK(device.pages() == 18);

  SECTION("also where the slots fill the budget") {
    const auto rest = device.take(6 * kib, purpose::weights);
    for (int i = 0; i < 100; ++i) {
      auto first = device.take(5 * kib, purpose::ring), second = device.take(5 * kib, purpose::ring);
      REQUIRE((first && second));
      device.give_back(first);
      device.give_back(second);
    }
    CHECK(device.trims == 0);
  }
  SECTION("and give them up to a block at the other end") {
    const auto more = device.take(16 * kib, purpose::kv);
    CHECK(more);
    CHECK(device.trims == 1);
    CHECK(device.pages() == 24);
  }
}

TEST_CASE("pages of free bytes go back when they are asked for, once, and leases keep theirs", "[memory_arbiter]") {
  paged_device device(24 * kib);
  auto first = device.take(4 * kib, purpose::kv), second = device.take(4 * kib, purpose::kv);
  const auto weights = device.take(6 * kib, purpose::weights);
  auto staging = device.take(3 * kib, purpose::staging);
  device.give_back(first);
  device.give_back(staging);
  CHECK(device.pages() == 17);
  device.arbiter->trim("host:0");
  CHECK(device.pages() == 10);
  const int trims = device.trims;
  device.arbiter->trim("host:0");
  CHECK(device.trims == trims);
  device.give_back(second);
  const auto again = device.take(8 * kib, purpose::kv);
  CHECK(again);
  CHECK(device.pages() == 14);
  CHECK_THROWS_AS(device.arbiter->trim("host:1"), error);
}

TEST_CASE("a device that can't trim keeps its pages", "[memory_arbiter]") {
  const auto arbiter = memory_arbiter::make();
  arbiter->add_device("host:0", nullptr, 8 * kib, 8 * kib, kib);
  (void)arbiter->try_acquire({"host:0", kib, purpose::kv});
  CHECK_NOTHROW(arbiter->trim("host:0"));
  CHECK(std::holds_alternative<lease>(arbiter->try_acquire({"host:0", 8 * kib, purpose::kv})));
}

TEST_CASE("memory that lies elsewhere takes the pages of free bytes, too", "[memory_arbiter]") {
  paged_device device(24 * kib);
  auto block = device.take(20 * kib, purpose::weights);
  device.give_back(block);
  CHECK(device.pages() == 20);
  const auto elsewhere =
      device.arbiter->try_acquire({"host:0", 6 * kib, purpose::requests, priority::normal, outside_memory{}});
  CHECK(std::holds_alternative<lease>(elsewhere));
  CHECK(device.pages() == 0);
}

TEST_CASE("a device that has less memory than its budget gets the pages of free bytes back before it refuses",
          "[memory_arbiter]") {
  paged_device device(32 * kib);
  device.max_pages = 16;
  auto weights = device.take(10 * kib, purpose::weights);
  device.give_back(weights);
  const auto kv = device.take(12 * kib, purpose::kv); // at the other end: 22 pages would be within the budget
  CHECK(kv);
  CHECK(device.refusals == 1);
  CHECK(device.trims == 1);
  CHECK(device.pages() == 12);
  CHECK_FALSE(device.take(5 * kib, purpose::weights));
  CHECK(device.arbiter->usage("host:0").in_use == 12 * kib);
  CHECK(device.take(4 * kib, purpose::weights));
}

TEST_CASE("bytes with pages stay within a budget that changes while blocks come and go, and leases keep theirs",
          "[memory_arbiter]") {
  constexpr std::array purposes{purpose::kv, purpose::weights, purpose::ring};
  for (unsigned seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    paged_device device(48 * kib);
    std::vector<lease> held;
    for (int i = 0; i < 200; ++i) {
      if (random() % 50 == 0) {
        device.arbiter->set_budget("host:0", (8 + random() % 56) * kib);
      } else if (auto l = device.take((1 + random() % 8) * kib, purposes[random() % 3]); l && random() % 2) {
        held.push_back(std::move(l));
      } else if (l) {
        device.give_back(l);
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        device.give_back(held.back());
        held.pop_back();
      }
      const auto now = device.arbiter->usage("host:0");
      REQUIRE(device.pages() * kib <= std::max(now.budget, now.in_use));
      for (std::size_t p = 0; p < device.leased.size(); ++p)
        if (device.leased[p] && !device.has_page[p])
          FAIL("a lease lost page " << p);
    }
    for (; !held.empty(); held.pop_back())
      device.give_back(held.back());
  }
}

TEST_CASE("what the host has promised stays within the budget, whichever threads give leases back",
          "[memory_arbiter]") {
  constexpr std::size_t chunk = committed_bytes::chunk, budget = 16 * chunk;
  memory_reading left; // for the budget, and nobody writes
  left.bounds.push_back({memory_bound::counts::written, budget, budget, "the test"});
  const auto promises = std::make_shared<memory_promises>([&] { return left; }, program_needs{});
  committed_bytes committed(promises, 64 * chunk);
  std::atomic<int> refusals = 0;
  device_setup setup{"host:0", nullptr, 64 * chunk, budget, chunk};
  setup.commit = [&](std::size_t offset, std::size_t bytes) {
    auto why = committed.commit(offset, bytes);
    refusals += why ? 1 : 0;
    return why;
  };
  setup.trim = [&](std::size_t offset, std::size_t bytes) { committed.trim(offset, bytes); };
  const auto arbiter = memory_arbiter::make();
  arbiter->add_device(setup);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<lease> held;
      for (int i = 0; i < 2000; ++i) {
        auto g =
            arbiter->try_acquire({"host:0", (1 + random() % 3) * chunk, random() % 2 ? purpose::kv : purpose::weights});
        if (auto* l = std::get_if<lease>(&g))
          held.push_back(std::move(*l));
        if (!held.empty() && held.size() > random() % 4)
          held.erase(held.begin());
      }
    });
  for (auto& t : threads)
    t.join();
  CHECK(refusals == 0);
  CHECK(arbiter->usage("host:0").in_use == 0);
  arbiter->set_budget("host:0", 0);
  CHECK_FALSE(promises->promise(budget)); // all of it came back
  CHECK(promises->promise(1));            // and no more
}
