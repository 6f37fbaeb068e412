// Divisions between weights and pages, and when bytes move from one to the other.
#include "tests/unit/placement/balance_fixture.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using fixture = testing::balance_fixture;
using demand = std::vector<std::size_t>;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

memory_balance::clock::time_point at(double seconds) {
  return memory_balance::clock::time_point(
      std::chrono::duration_cast<memory_balance::clock::duration>(std::chrono::duration<double>(seconds)));
}

/// As `balance_with`; one sequence takes 10 ms to compute, four take `four`, and reading is `mib_per_second` fast.
memory_balance measured(const fixture& f, std::size_t pages, double four, double mib_per_second) {
  auto b = f.balance_with(pages);
  b.step_computed(1, {0.01});
  b.step_computed(4, {four});
  b.weights_read(mib, 1 / mib_per_second);
  return b;
}

const demand four_sequences{12, 24, 36, 48}; ///< pages

/// Steps that stream take as long as their longer part: `seconds`, with the current division.
void learn_overlap(memory_balance& b, double seconds) {
  for (int i = 0; i < 200; ++i)
    b.step_computed(1, {0.01, seconds});
}

} // namespace

TEST_CASE("a placement has room for the pages that are asked for, and tables for all that may exist") {
  const fixture f;
  const auto& input = f.inputs.front();
  const auto few = place(input, 0, 3), all = place(input, 0);
  CHECK(few->plan.kv_pages == 3);
  CHECK(all->plan.kv_pages == fixture::max_pages);
  CHECK(place(input, 0, 1000)->plan.total == all->plan.total);
  CHECK(place(input, 0, 0)->plan.kv_pages == 1);
  CHECK(all->plan.total - few->plan.total ==
        (fixture::max_pages - 3) * kv_page_stride(all->layout, input.shape.kv)); // the tables are the same
}

TEST_CASE("extents have about 2 MiB, and are few pages where there are few") {
  CHECK(extent_pages_of(10000, mib / 4) == 8);
  CHECK(extent_pages_of(10000, 3 * mib) == 1);
  CHECK(extent_pages_of(64, mib / 100) == 4);
  CHECK(extent_pages_of(1, 1) == 1);
}

TEST_CASE("a division streams no more than its pages cost, and has all pages that are free then") {
  const fixture f;
  auto b = f.balance_with(18);
  for (std::size_t asked = 0; asked <= fixture::max_pages + 3; ++asked) {
    CAPTURE(asked);
    const auto d = b.with_pages(asked);
    CHECK(testing::is_within_budgets(d));
    CHECK(d.kv_pages >= std::min(asked, fixture::max_pages));
    CHECK((d.kv_pages % fixture::extent_pages == 0 || d.kv_pages == fixture::max_pages));
    const std::size_t extents = std::min((asked + 3) / 4 * 4, fixture::max_pages);
    CHECK(d.streamed_bytes == place(f.inputs.front(), f.whole(18), extents)->streamed_bytes());
    if (d.kv_pages < fixture::max_pages)
      CHECK(d.placements.front()->spare_bytes <
            fixture::extent_pages * kv_page_stride(d.placements.front()->layout, kv_type::f16));
  }
}

TEST_CASE("kinds go from no streamed weights to all pages, with the numbers of their placements") {
  const fixture f({{0, 10}, {10, fixture::layers}});
  auto b = f.balance_with(24);
  const auto kinds = b.kinds();
  REQUIRE(kinds.size() > 3);
  CHECK(kinds.front().streamed_bytes == 0);
  CHECK(kinds.back().kv_pages == fixture::max_pages);
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const auto d = b.with_pages(kinds[i].kv_pages);
    CHECK(d.kv_pages == kinds[i].kv_pages);
    CHECK(d.streamed_bytes == kinds[i].streamed_bytes);
    std::size_t total = 0, slots = 0;
    for (const auto& p : d.placements) {
      total += p->plan.total;
      slots += p->plan.ring_slots;
    }
    CHECK(total == kinds[i].total_bytes);
    CHECK(slots == kinds[i].ring_slots);
    if (i > 0) {
      CHECK(kinds[i].kv_pages > kinds[i - 1].kv_pages);
      CHECK(kinds[i].streamed_bytes != kinds[i - 1].streamed_bytes);
    }
  }
}

TEST_CASE("without a budget there is one division, with all pages and weights") {
  const fixture f;
  memory_balance b({{f.inputs.front(), 0}}, fixture::extent_pages);
  CHECK(b.kinds().size() == 1);
  CHECK(b.current().kv_pages == fixture::max_pages);
  CHECK(b.current().streamed_bytes == 0);
}

TEST_CASE("pages for the first sequence are made at once, and for no other one unmeasured") {
  const fixture f;
  auto b = f.balance_with(18);
  const auto first = b.current();
  REQUIRE(first.kv_pages == 16);
  CHECK(!b.decide(demand{16, 32, 48}, 0, at(0)));
  const auto move = b.decide(demand{17, 32}, 16, at(0));
  REQUIRE(move);
  CHECK(move->to.kv_pages >= 17);
  CHECK(move->to.kv_pages < 32);
  CHECK(testing::is_within_budgets(move->to));
  CHECK_THAT(move->reason, Catch::StartsWith("1 sequence wants 17 pages, more than the 16 that there is room for: ") &&
                               Catch::EndsWith("instead of all weights in memory"));
  b.moved(move->to, at(0));
  CHECK(b.current().kv_pages == move->to.kv_pages);
  CHECK(b.decide(demand{40}, 0, at(0))); // however short the time since
  CHECK(!b.decide(demand{16}, 0, at(10)));
}

TEST_CASE("sequences get pages where their tokens are predicted to be more by an eighth") {
  const fixture f;
  const double fast = 1e6;
  for (const auto& [four, moves] : {std::pair{0.04 / 1.4 / 1.11, false}, {0.04 / 1.4 / 1.14, true}}) {
    auto b = measured(f, 18, four, fast);
    const auto move = b.decide(four_sequences, 0, at(0));
    REQUIRE(move.has_value() == moves);
    if (moves) {
      CHECK(move->to.kv_pages >= 48);
      CHECK_THAT(move->reason, Catch::Matches("4 sequences want 48 pages: 114 tokens per second are predicted with "
                                              ".* MiB streamed per step, 100 with all weights in memory"));
    }
  }
  auto slow = measured(f, 18, 0.02, 100);
  CHECK(!slow.decide(four_sequences, 0, at(0)));
}

TEST_CASE("the number of sequences that streaming pays for is chosen") {
  const fixture f;
  // More pages stream more weights: three sequences hide that, and with the fourth it takes longer.
  auto b = measured(f, 18, 0.02, 1000);
  const auto three = b.with_pages(36).streamed_bytes, four = b.with_pages(48).streamed_bytes;
  REQUIRE(three < four);
  const double speed = static_cast<double>(three) / static_cast<double>(mib) / 0.0165;
  auto chosen = measured(f, 18, 0.02, speed);
  const demand steep{12, 24, 36, fixture::max_pages};
  const double last = static_cast<double>(chosen.with_pages(fixture::max_pages).streamed_bytes);
  REQUIRE(4 / (last / static_cast<double>(mib) / speed) < 3 / 0.0167);
  const auto move = chosen.decide(steep, 0, at(0));
  REQUIRE(move);
  CHECK(move->to.kv_pages >= 36);
  CHECK(move->to.kv_pages < fixture::max_pages);
  CHECK_THAT(move->reason, Catch::StartsWith("3 sequences want 36 pages: "));
}

TEST_CASE("weights come back for a seventh, but no page that is held goes") {
  const fixture f;
  auto b = measured(f, 18, 0.02, 100);
  const auto crowded = b.with_pages(48);
  b.moved(crowded, at(0));
  REQUIRE(b.current().streamed_bytes > mib); // which takes longer to read than 10 ms
  CHECK(!b.decide(demand{12}, crowded.kv_pages, at(100)));
  const auto some = b.decide(demand{12, 36}, 33, at(100));
  REQUIRE(some);
  CHECK(some->to.kv_pages >= 33);
  CHECK(some->to.kv_pages < crowded.kv_pages);
  const auto move = b.decide(demand{12}, 12, at(100));
  REQUIRE(move);
  CHECK(move->to.streamed_bytes == 0);
  CHECK_THAT(move->reason, Catch::StartsWith("1 sequence wants 12 pages: 100 tokens per second") &&
                               Catch::Contains("predicted with all weights in memory, "));

  for (const auto& [read_seconds, moves] : {std::pair{0.0114, false}, {0.0117, true}}) { // and 10 ms without
    auto close =
        measured(f, 18, 0.02, static_cast<double>(crowded.streamed_bytes) / static_cast<double>(mib) / read_seconds);
    close.moved(crowded, at(0));
    learn_overlap(close, read_seconds);
    CHECK(close.decide(demand{12}, 0, at(100)).has_value() == moves);
  }

  // Streaming that hides behind computing costs nothing.
  auto hidden = measured(f, 18, 0.02, 1e6);
  hidden.moved(hidden.with_pages(48), at(0));
  learn_overlap(hidden, 0.01);
  CHECK(!hidden.decide(demand{12}, 0, at(100)));
}

TEST_CASE("without demand the weights come back, unmeasured, too, as far as pages are not held") {
  const fixture f;
  auto b = f.balance_with(18);
  CHECK(!b.decide({}, 0, at(0)));
  b.moved(b.with_pages(48), at(0));
  CHECK(!b.decide({}, 0, at(0.9)));
  const auto held = b.decide({}, 30, at(1));
  REQUIRE(held);
  CHECK(held->to.kv_pages >= 30);
  CHECK(held->to.kv_pages < 48);
  CHECK(!b.decide({}, 48, at(1)));
  const auto move = b.decide({}, 0, at(1));
  REQUIRE(move);
  CHECK(move->to.kv_pages == 16);
  CHECK(move->to.streamed_bytes == 0);
  CHECK_THAT(move->reason,
             Catch::StartsWith("no sequence wants pages: 16 keep their room, with all weights in memory"));
}

TEST_CASE("after a move nothing moves for a second, and for ten times what loading costs") {
  const fixture f;
  auto b = measured(f, 18, 0.02, 1e6);
  b.moved(b.with_pages(16), at(10));
  CHECK(!b.decide(four_sequences, 0, at(10.99)));
  CHECK(b.decide(four_sequences, 0, at(11.01)));

  auto slow = measured(f, 18, 0.02, 10);
  const auto crowded = slow.with_pages(48);
  slow.moved(crowded, at(10)); // nothing is loaded
  const auto back = slow.decide(demand{12}, 0, at(11.01));
  REQUIRE(back);
  slow.moved(back->to, at(20));
  const double rest = 10 * static_cast<double>(crowded.streamed_bytes) / static_cast<double>(10 * mib);
  REQUIRE(rest > 1);
  slow.step_computed(1, {1000}); // four together are worth streaming now
  for (int i = 0; i < 100; ++i)
    slow.step_computed(1, {1000});
  CHECK(!slow.decide(four_sequences, 0, at(20 + rest - 0.01)));
  CHECK(slow.decide(four_sequences, 0, at(20 + rest + 0.01)));
}

TEST_CASE("a budget of several devices moves on all of them") {
  const fixture f({{0, 6}, {6, fixture::layers}});
  std::vector<balanced_device> devices{{f.inputs[0], f.whole(fixture::max_pages, 0)}, {f.inputs[1], f.whole(18, 1)}};
  memory_balance b(devices, fixture::extent_pages);
  CHECK(b.current().kv_pages == 16); // the smaller room counts
  const auto move = b.decide(demand{40}, 0, at(0));
  REQUIRE(move);
  REQUIRE(testing::is_within_budgets(move->to));
  CHECK(move->to.placements[0]->streamed_bytes() == 0);
  CHECK(move->to.placements[1]->streamed_bytes() == move->to.streamed_bytes);
  CHECK(move->to.streamed_bytes > 0);
}

TEST_CASE("a budget without room for a whole context is refused, and nothing changes") {
  const fixture f({{0, 10}, {10, fixture::layers}});
  auto b = f.balance_with(18);
  const auto before = b.current();
  try {
    (void)b.for_budget(1, 1, {});
    FAIL("fitted");
  } catch (const error& e) {
    CHECK(e.code() == errc::over_budget);
    CHECK_THAT(e.what(), Catch::StartsWith("the budget of host:1 is 1 B, and ") &&
                             Catch::Contains("the smallest budget that works is "));
  }
  CHECK_THROWS_AS(b.for_budget(0, 0, {}), error);
  CHECK(b.current().placements == before.placements);
  CHECK(b.with_pages(16).placements == before.placements);
}

TEST_CASE("the smallest budget that works is the one that the refusal of another names") {
  const fixture f;
  auto b = f.balance_with(18);
  const std::size_t smallest = place(f.inputs.front(), 1, fixture::context_pages)->plan.total;
  CHECK_THROWS_AS(b.for_budget(0, smallest - 1, {}), error);
  const auto move = b.for_budget(0, smallest, {});
  CHECK(testing::is_within_budgets(move.to));
  CHECK(move.to.kv_pages >= 8); // of an ordinary request
  CHECK(b.for_budget(0, smallest, demand{fixture::context_pages}).to.kv_pages >= fixture::context_pages);
  CHECK(move.to.placements.front()->budget == smallest);
  b.moved(move.to, at(0));
  // All pages no longer fit, so no demand leads there.
  const demand all{fixture::context_pages, fixture::max_pages};
  b.step_computed(1, {1});
  b.step_computed(2, {1});
  b.weights_read(1000 * mib, 1e-3);
  const auto next = b.decide(all, 0, at(1000));
  REQUIRE(next);
  CHECK(next->to.kv_pages >= fixture::context_pages);
  CHECK(next->to.kv_pages < fixture::max_pages);
}

TEST_CASE("another budget gets the division that is best for the demand") {
  const fixture f;
  auto b = measured(f, 18, 0.02, 1e6);
  const auto more = b.for_budget(0, f.whole(40), demand{12, 24});
  CHECK(more.to.streamed_bytes == 0);
  CHECK(more.to.kv_pages == 40);
  CHECK_THAT(more.reason,
             Catch::Matches("the budget of host:0 is .* MiB: 40 pages have room with all weights in memory"));
  CHECK(b.current().kv_pages == 16); // until it is done
  b.moved(more.to, at(0));
  const auto less = b.for_budget(0, f.whole(18), four_sequences);
  CHECK(less.to.kv_pages >= 48);
  CHECK(less.to.streamed_bytes > 0);
  CHECK(b.for_budget(0, f.whole(18), {}).to.kv_pages == 16);
  const auto held = b.for_budget(0, f.whole(18), {}, 20);
  CHECK(held.to.kv_pages >= 20);
  CHECK(held.to.kv_pages < 40);
}

TEST_CASE("with another budget and unknown speeds, what runs goes on running") {
  const fixture f;
  auto b = f.balance_with(40); // three of the four
  CHECK(b.for_budget(0, f.whole(18), four_sequences).to.kv_pages >= 36);
  CHECK(b.for_budget(0, f.whole(18), four_sequences).to.kv_pages < 48);
}
