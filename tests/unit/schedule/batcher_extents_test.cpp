// Memory of KV pages that comes for steps and goes when nothing is on it, and limits of how much there is.
#include "tests/unit/schedule/table_top.hpp"

using namespace tropilla;
using testing::expected;
using testing::page_memory;
using testing::shape_of;
using testing::table_top;
using testing::tokens;

namespace {

constexpr std::size_t one_page = kv_page_tokens;

/// No refusals; extents of so many pages.
table_top with_extents(const run_shape& shape, std::size_t extent_pages) {
  return table_top(shape, 1000, {}, extent_pages);
}

void step_and_draw(table_top& t, int steps) {
  for (; steps > 0; --steps) {
    REQUIRE(t.step() > 0);
    t.draw();
  }
}

} // namespace

TEST_CASE("extents are asked for when a step needs them, and the step waits for every answer") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 1, 4 * one_page), 1);
  t.submit(1, 2 * one_page + 1, tokens(40));
  CHECK(t.memory.taken() == 0);
  CHECK(t.batching.next_step(t.now) == nullptr);
  const auto wanted = t.batching.take_wanted_extents();
  CHECK(wanted == std::vector<extent_number>{0, 1, 2});
  CHECK(t.batching.take_wanted_extents().empty());
  for (const auto e : wanted) {
    CHECK(t.batching.next_step(t.now) == nullptr);
    t.answer(e);
  }
  t.batching.extent_granted(1, {}); // what is not asked for changes nothing
  t.batching.extent_refused(3, "not asked for");
  CHECK(t.step() == 2 * one_page + 1);
  t.draw();
  step_and_draw(t, 31);
  CHECK(t.memory.taken() == 3);
  step_and_draw(t, 1);
  CHECK(t.memory.taken() == 4);
}

TEST_CASE("answers that are lost are asked for again") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 1, 4 * one_page), 2);
  t.submit(1, 3 * one_page, tokens(2));
  CHECK(t.batching.next_step(t.now) == nullptr);
  const auto wanted = t.batching.take_wanted_extents();
  REQUIRE(wanted.size() == 2);
  t.answer(wanted.front());
  t.batching.extents_lost();
  CHECK(t.batching.next_step(t.now) == nullptr);
  const auto again = t.batching.take_wanted_extents();
  CHECK(again == std::vector{wanted.back()});
  t.answer(again.front());
  CHECK(t.step() == 3 * one_page);
}

TEST_CASE("one empty extent stays for active sequences, and none when no sequence is active") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 1);
  const auto reply = t.submit(1, 5, tokens(3));
  REQUIRE(t.step() > 0);
  t.draw();
  CHECK(t.lend_empty(100, 4 * one_page).pages.size() == 4);
  CHECK(t.memory.taken() == 5);
  t.in_flight.reset();
  CHECK(t.batching.give_back(100));
  CHECK(t.memory.taken() == 2);
  step_and_draw(t, 2);
  CHECK(reply->end);
  t.in_flight.reset();
  CHECK(t.memory.taken() == 1); // the reply's page is cached
  CHECK(t.batching.usage().pages_cached == 1);
}

TEST_CASE("what a request asked for goes back when it ends before a step") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 1, 4 * one_page), 1);
  t.submit(1, 3 * one_page, tokens(2));
  CHECK(t.batching.next_step(t.now) == nullptr);
  const auto wanted = t.batching.take_wanted_extents();
  t.answer(wanted.front());
  t.batching.cancel(1, t.now);
  CHECK(t.batching.idle());
  for (std::size_t i = 1; i < wanted.size(); ++i)
    t.answer(wanted[i]);
  CHECK(t.batching.next_step(t.now) == nullptr);
  CHECK(t.batching.take_wanted_extents().empty());
  CHECK(t.memory.taken() == 0);
}

TEST_CASE("memory goes back when the last step that may use it is gone, and the batcher holds no step's") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 1, 4 * one_page), 2);
  t.submit(1, 3 * one_page, tokens(1));
  REQUIRE(t.step() > 0);
  t.draw();
  CHECK(t.memory.taken() == 4);
  CHECK(t.batching.give_back_cached(page_memory::page_bytes) == 2 * page_memory::page_bytes);
  CHECK(t.memory.taken() == 4); // a device that is late may hold the step
  t.in_flight.reset();
  CHECK(t.memory.taken() == 2);
  CHECK(t.batching.give_back_cached(100 * page_memory::page_bytes) == 2 * page_memory::page_bytes);
  CHECK(t.batching.give_back_cached(1) == 0);
  CHECK(t.memory.taken() == 0);
  const auto again = t.submit(2, 3 * one_page, tokens(1)); // nothing is found
  CHECK(t.step() == 3 * one_page);
  t.draw();
  CHECK(again->ids() == expected(table_top::some_prompt(3 * one_page), 1));
}

TEST_CASE("a step that nobody holds any more gives its memory back when it ends") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 1, 4 * one_page), 2);
  t.submit(1, 3 * one_page, tokens(1));
  REQUIRE(t.step() > 0);
  t.in_flight.reset(); // before the batcher ends it
  t.draw();
  (void)t.batching.give_back_cached(100 * page_memory::page_bytes);
  CHECK(t.memory.taken() == 0);
}

TEST_CASE("extents that came for a step or a loan stay while others are awaited") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 2, 8 * one_page), 1);
  t.submit(1, 3 * one_page, tokens(2));
  t.submit(2, 10, tokens(1));
  CHECK(t.batching.next_step(t.now) == nullptr);
  auto wanted = t.batching.take_wanted_extents();
  REQUIRE(wanted.size() == 4);
  t.answer(wanted[0]);
  t.batching.cancel(2, t.now);
  CHECK(t.memory.taken() == 1);
  for (std::size_t i = 1; i < wanted.size(); ++i)
    t.answer(wanted[i]);
  CHECK(t.batching.next_step(t.now));
  t.batching.fail_all(error(errc::device_failed, "the test begins anew"));
  CHECK(t.memory.taken() == 0);

  t.submit(3, 10, tokens(1));
  CHECK(t.batching.wait_for_loan(2 * one_page));
  wanted = t.batching.take_wanted_extents();
  REQUIRE(wanted.size() == 2);
  t.answer(wanted[0]);
  t.batching.cancel(3, t.now);
  t.answer(wanted[1]);
  CHECK(t.next_step() == nullptr);
  CHECK(t.memory.taken() == 2);
  CHECK_FALSE(t.batching.wait_for_loan(2 * one_page));
  CHECK(t.batching.lend_empty(100, 2 * one_page).pages.size() == 2);
}

TEST_CASE("after a while without requests what is cached stays, for nobody else has it, and empty extents are gone") {
  table_top t(shape_of(256, 64, 2, 256));
  const auto reply = t.submit(1, 70, tokens(3));
  t.run();
  REQUIRE(reply->end);
  t.in_flight.reset();
  const auto cached = t.batching.usage().pages_cached;
  REQUIRE(cached == 3);
  t.batching.idle_for_a_while();
  CHECK(t.batching.usage().pages_cached == cached);
  CHECK(t.memory.taken() == cached);
  const auto again = t.submit(2, 70, tokens(3));
  t.run();
  CHECK(again->ids() == reply->ids());
  CHECK(again->end->reused_tokens == 69);
}

TEST_CASE("bytes to give back are those of the device whose pages have most, and places follow each device's pages") {
  gguf_file file = gguf_file::open(testing::tiny_model());
  const tokenizer tok(file);
  const auto shape = shape_of(4 * one_page, 4 * one_page, 1, 7 * one_page);
  batcher batching(tok, shape, 10, {}, {4, {64, 192}});
  page_memory memory(100); // both devices' leases come from here
  sequence_request r;
  r.id = 1;
  r.prompt = table_top::some_prompt(3 * one_page);
  r.options = tokens(1);
  r.sink = std::make_shared<testing::recording_sink>();
  batching.submit(r);
  CHECK(batching.next_step({}) == nullptr);
  REQUIRE(batching.take_wanted_extents() == std::vector<extent_number>{0});
  const auto first = memory.take(4), second = memory.take(12);
  batching.extent_granted(0, {first, second});
  const auto step = batching.next_step({});
  REQUIRE(step);
  REQUIRE(step->table->starts.size() == 2);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(step->table->starts[0][i] == first.data() + i * 64);
    CHECK(step->table->starts[1][i] == second.data() + i * 192);
  }
  CHECK(step->table->starts[0][4] == nullptr);
  batching.fail_all(error(errc::device_failed, "the test ends it"));
  CHECK(step->table->starts[0][0] == first.data()); // as it was when the step was composed
}

TEST_CASE("when all fails, memory goes back but for what is lent, and a loan keeps no other's") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 1);
  t.submit(1, 4 * one_page, tokens(9));
  REQUIRE(t.step() > 0);
  t.draw();
  auto loan = t.batching.lend(100, table_top::some_prompt(2 * one_page));
  REQUIRE(loan.pages.size() == 2);
  REQUIRE(loan.table);
  for (const auto page : loan.pages)
    CHECK(loan.table->starts.front()[page] != nullptr);
  t.in_flight.reset();
  t.batching.fail_all(error(errc::device_failed, "the test fails everything"));
  CHECK(t.memory.taken() == 2);
  CHECK_FALSE(t.batching.give_back(100));
  CHECK(t.memory.taken() == 2); // the client still reads
  loan.table.reset();
  CHECK(t.memory.taken() == 0);
}

TEST_CASE("a step holds its memory when all fails, and what was asked for goes back when it comes") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 2);
  t.submit(1, 20, tokens(9));
  auto step = t.next_step();
  REQUIRE(step);
  CHECK(t.batching.wait_for_loan(3 * one_page));
  t.batching.fail_all(error(errc::device_failed, "the test fails everything"));
  CHECK(t.memory.taken() == 2);
  step.reset();
  CHECK(t.memory.taken() == 0);
  CHECK(t.answer_all());
  CHECK(t.memory.taken() > 0);
  CHECK(t.next_step() == nullptr);
  CHECK(t.memory.taken() == 0);
}

TEST_CASE("above a lower limit nothing new is asked for, cached extents go, and others wait until it is kept") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 2, 8 * one_page), 1);
  t.submit(1, table_top::some_prompt(2 * one_page, 300), tokens(1));
  t.run(); // two pages are cached
  const auto first = t.submit(2, table_top::some_prompt(2 * one_page, 1), tokens(50));
  const auto second = t.submit(3, table_top::some_prompt(2 * one_page, 900), tokens(3));
  step_and_draw(t, 2);
  CHECK(t.batching.usage().active == 2);
  CHECK(t.batching.usage().pages_cached == 2);
  CHECK(t.batching.within_page_limit());
  t.batching.set_page_limit(3);
  CHECK_FALSE(t.batching.within_page_limit());
  const auto third = t.submit(4, table_top::some_prompt(10, 1200), tokens(2));
  while (!second->end) {
    step_and_draw(t, 1);
    CHECK_FALSE(third->ended());
  }
  CHECK(t.batching.usage().preemptions == 0);
  CHECK_FALSE(t.batching.within_page_limit()); // what the second sequence left is cached
  step_and_draw(t, 1);
  CHECK(t.batching.within_page_limit());
  CHECK(t.batching.usage().pages_cached == 0);
  t.in_flight.reset();
  CHECK(t.memory.taken() == 3);
  CHECK(t.batching.usage().active == 1);
  t.batching.set_page_limit(8);
  t.run();
  CHECK(first->ids() == expected(table_top::some_prompt(2 * one_page, 1), 50));
  CHECK(second->ids() == expected(table_top::some_prompt(2 * one_page, 900), 3));
  CHECK(third->ids() == expected(table_top::some_prompt(10, 1200), 2));
}

TEST_CASE("above the limit no sequence joins another, although pages of held extents are free") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 4);
  const auto first = t.submit(1, 4 * one_page, tokens(5)); // a page of the second extent
  step_and_draw(t, 2);
  CHECK(t.memory.taken() == 8);
  t.batching.set_page_limit(4);
  const auto second = t.submit(2, table_top::some_prompt(10, 900), tokens(1));
  while (!first->end) {
    step_and_draw(t, 1);
    CHECK_FALSE(second->ended());
  }
  t.run();
  CHECK(second->end);
  CHECK(t.batching.within_page_limit());
}

TEST_CASE("a limit by force takes pages even from the only sequence, and its reply stays the same") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 2, 8 * one_page), 2);
  const auto first = t.submit(1, table_top::some_prompt(2 * one_page, 1), tokens(20));
  const auto second = t.submit(2, table_top::some_prompt(2 * one_page, 900), tokens(20));
  step_and_draw(t, 2);
  CHECK(t.memory.taken() == 6);
  REQUIRE(t.step() > 0);
  t.batching.set_page_limit(1, true);          // not one extent
  CHECK_FALSE(t.batching.within_page_limit()); // a step is in flight
  t.draw();
  CHECK(t.step() == 0);
  CHECK(t.batching.within_page_limit());
  CHECK(t.batching.usage().preemptions == 2);
  CHECK(t.memory.taken() == 0);
  CHECK(t.batching.wants_pages());
  t.batching.set_page_limit(4, true);
  CHECK_FALSE(t.batching.wants_pages());
  t.run();
  CHECK(first->ids() == expected(table_top::some_prompt(2 * one_page, 1), 20));
  CHECK(second->ids() == expected(table_top::some_prompt(2 * one_page, 900), 20));
}

TEST_CASE("the only sequence waits for a higher limit, and goes on or fails with the reason that there is none") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 2);
  t.batching.set_page_limit(5); // two extents
  const auto reply = t.submit(1, 3 * one_page, tokens(100));
  const auto other = t.submit(2, table_top::some_prompt(10, 900), tokens(2));
  t.run();
  CHECK(t.batching.wants_pages());
  CHECK_FALSE(reply->ended());
  CHECK(reply->ids().size() == one_page + 1);
  CHECK(t.memory.taken() == 4);
  t.batching.set_page_limit(6);
  CHECK_FALSE(t.batching.wants_pages());
  t.run();
  CHECK(t.batching.wants_pages());
  CHECK(reply->ids().size() == 3 * one_page + 1);
  const bool rises = GENERATE(true, false);
  if (rises) {
    t.batching.set_page_limit(8);
    t.run();
    CHECK(reply->ids() == expected(table_top::some_prompt(3 * one_page), 100));
  } else {
    t.batching.no_more_pages(error(errc::over_budget, "the test has no more"));
    t.run();
    REQUIRE(reply->failure);
    CHECK_THAT(reply->failure->what(), Catch::Contains("the test has no more"));
  }
  CHECK_FALSE(t.batching.wants_pages());
  CHECK(other->ids() == expected(table_top::some_prompt(10, 900), 2));
  const auto after = t.submit(3, 10, tokens(1)); // what can't rise was no sequence's but the one that waited
  t.run();
  CHECK(after->end);
}

TEST_CASE("the demand counts shared pages once, and tokens only as far as they can come") {
  auto t = with_extents(shape_of(8 * one_page, 16 * one_page, 4, 16 * one_page), 2);
  CHECK(t.batching.page_demand(100, 100).empty());
  const auto common = table_top::some_prompt(3 * one_page);
  auto a = common, b = common;
  a.push_back(500);
  b.push_back(501);
  t.submit(1, a, tokens(500));
  step_and_draw(t, 1);
  t.submit(2, b, tokens(5));
  step_and_draw(t, 1);
  CHECK(t.batching.usage().active == 2);
  // Each has a page of its own behind three that are shared; 500 tokens end at the context.
  CHECK(t.batching.page_demand(1, 1) == std::vector<std::size_t>{4, 5});
  CHECK(t.batching.page_demand(one_page, one_page) == std::vector<std::size_t>{5, 6});
  CHECK(t.batching.page_demand(10000, 10000) == std::vector<std::size_t>{8, 9});
  t.submit(3, b, tokens(one_page)); // waits: three pages of its four are there
  t.submit(4, table_top::some_prompt(one_page, 700), tokens(1));
  t.submit(5, 10, tokens(1)); // not in the first step
  CHECK(t.batching.page_demand(10000, 10000) == std::vector<std::size_t>{8, 9, 10, 11});
  CHECK(t.batching.pages_held_by_use() == 6);
}

TEST_CASE("the demand is at most the pages that there are, and finds shared pages that nobody uses any more once") {
  auto t = with_extents(shape_of(4 * one_page, 4 * one_page, 3, 4 * one_page), 1);
  const auto common = table_top::some_prompt(2 * one_page + 1);
  t.submit(1, common, tokens(1));
  t.run();
  t.submit(2, common, tokens(1));
  t.submit(3, common, tokens(1));
  t.submit(4, table_top::some_prompt(4 * one_page, 900), {}, true);
  CHECK(t.batching.page_demand(9, 9) == std::vector<std::size_t>{3, 4, 4});
  CHECK(t.batching.pages_held_by_use() == 0);
}

TEST_CASE("a loan waits for its extents and not for what is refused") {
  auto t = with_extents(shape_of(8 * one_page, 8 * one_page, 2, 8 * one_page), 2);
  CHECK_FALSE(t.batching.wait_for_loan(8 * one_page + 1)); // it never can be
  CHECK(t.batching.wait_for_loan(3 * one_page));
  CHECK(t.batching.wait_for_loan(1)); // another client's
  auto wanted = t.batching.take_wanted_extents();
  REQUIRE(wanted.size() == 2);
  t.answer(wanted[0]);
  CHECK(t.batching.wait_for_loan(3 * one_page));
  t.batching.extent_refused(wanted[1], "the test has no more");
  CHECK_FALSE(t.batching.wait_for_loan(3 * one_page));
  CHECK_THROWS_WITH(t.batching.lend_empty(100, 3 * one_page), Catch::Contains("the test has no more"));
  CHECK(t.memory.taken() == 0);                  // what came for it went back
  CHECK(t.batching.wait_for_loan(3 * one_page)); // the next client asks anew
  CHECK(t.answer_all());
  CHECK_FALSE(t.batching.wait_for_loan(3 * one_page));
  CHECK(t.batching.lend_empty(101, 3 * one_page).pages.size() == 3);
  CHECK(t.batching.give_back(101));
  CHECK(t.memory.taken() == 0);
}
