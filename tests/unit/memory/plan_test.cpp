// Offsets from lifetimes, and the sum of a plan.
#include "memory/plan.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>

using namespace tropilla;

TEST_CASE("buffers that live at the same time never overlap, and the arena is no larger than all of them", "[plan]") {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<buffer_lifetime> buffers(1 + random() % 30);
    std::size_t sum = 0;
    for (auto& b : buffers) {
      b.bytes = random() % 10000;
      b.first = random() % 20;
      b.last = b.first + random() % 5;
      sum += (b.bytes + 63) / 64 * 64;
    }
    const offset_plan plan = assign_offsets(buffers, 64);
    REQUIRE(plan.offsets.size() == buffers.size());
    REQUIRE(plan.bytes <= sum);
    std::size_t busiest = 0;
    for (std::size_t t = 0; t < 25; ++t) {
      std::size_t alive = 0;
      for (const auto& b : buffers)
        alive += b.first <= t && t <= b.last ? b.bytes : 0;
      busiest = std::max(busiest, alive);
    }
    REQUIRE(plan.bytes >= busiest);
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      REQUIRE(plan.offsets[i] % 64 == 0);
      REQUIRE(plan.offsets[i] + buffers[i].bytes <= plan.bytes);
      for (std::size_t j = 0; j < i; ++j) {
        const bool meet = buffers[i].first <= buffers[j].last && buffers[j].first <= buffers[i].last;
        const bool apart = plan.offsets[i] + buffers[i].bytes <= plan.offsets[j] ||
                           plan.offsets[j] + buffers[j].bytes <= plan.offsets[i];
        REQUIRE((!meet || apart));
      }
    }
  }
}

TEST_CASE("a plan's total is the sum of its parts, and a byte less does not fit", "[plan]") {
  plan_input in;
  in.device = "host:0";
  in.groups = {{"embedding", 1000}, {"layer 0", 5000}, {"layer 1", 5000}};
  in.kv_page_bytes = 4096;
  in.kv_page_tokens = 32;
  in.kv_tokens = 100; // 4 pages
  in.activations = {{"a", 640, 0, 1}, {"b", 640, 2, 3}};
  in.workspace_bytes = 300;
  in.staging_bytes = 8192;
  const memory_plan plan = make_plan(in);
  std::size_t sum = 0, by_purpose = 0;
  for (const plan_item& item : plan.items)
    sum += item.bytes;
  for (const std::size_t bytes : plan.by_purpose)
    by_purpose += bytes;
  CHECK(plan.total == sum);
  CHECK(plan.total == by_purpose);
  CHECK(plan.kv_pages == 4);
  CHECK(plan.activations.bytes == 640); // one after the other in the same place
  CHECK_NOTHROW(require_fits(plan, plan.total));
  try {
    require_fits(plan, plan.total - 1);
    FAIL("fitted");
  } catch (const error& e) {
    CHECK(e.code() == errc::over_budget);
  }
}

TEST_CASE("what a budget does not hold is streamed, spread evenly between what stays", "[plan]") {
  plan_input in;
  in.device = "host:0";
  in.groups.push_back({"embedding", 2000, false});
  for (int i = 0; i < 12; ++i)
    in.groups.push_back({"layer", 6400, true});
  in.groups.push_back({"output", 64, false});
  in.workspace_bytes = 640;
  const std::size_t all = make_plan(in).total;
  CHECK(make_plan(in).ring_slots == 0);

  in.budget = 1;
  const memory_plan smallest = make_plan(in);
  CHECK(smallest.ring_slots == 2);
  CHECK(smallest.total == all - 10 * 6400);
  CHECK_THROWS_AS(require_fits(smallest, smallest.total - 1), error);

  for (in.budget = smallest.total; in.budget < all; in.budget += 1000) {
    const memory_plan plan = make_plan(in);
    REQUIRE(plan.total <= in.budget);
    REQUIRE(plan.slot_bytes == 6400);
    const auto streamed = static_cast<std::size_t>(std::count(plan.streamed.begin(), plan.streamed.end(), true));
    REQUIRE(plan.total == all - (streamed - plan.ring_slots) * 6400);
    REQUIRE(plan.total + 6400 > std::min(in.budget, all - 6400)); // one layer more would not fit
    REQUIRE_FALSE(plan.streamed.front());
    REQUIRE_FALSE(plan.streamed.back());
    // Of any run of layers, as many are streamed as of any other, give or take one.
    for (std::size_t length = 1; length <= 12; ++length) {
      std::size_t least = 12, most = 0;
      for (std::size_t at = 1; at + length <= 13; ++at) {
        std::size_t n = 0;
        for (std::size_t i = at; i < at + length; ++i)
          n += plan.streamed[i] ? 1 : 0;
        least = std::min(least, n);
        most = std::max(most, n);
      }
      REQUIRE(most - least <= 1);
    }
  }
  in.budget = all;
  CHECK(make_plan(in).ring_slots == 0);
}
