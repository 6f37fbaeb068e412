// Pages that are saved before they leave, and restored where a sequence begins with them.
#include "tests/unit/schedule/table_store.hpp"

using namespace tropilla;
using testing::expected;
using testing::shape_of;
using testing::table_mover;
using testing::table_store;
using testing::table_top;
using testing::tokens;

namespace {

struct stored_table_top {
  explicit stored_table_top(const run_shape& s) : table(s, 1000, {}, 1, store), mover(table, store) {}

  /// Steps and moves until nothing is left to do.
  void run() {
    for (;;) {
      const auto computed = table.step();
      table.draw();
      const bool moved = mover.take() > 0;
      mover.end_all();
      if (computed == 0 && !moved)
        return;
    }
  }

  std::shared_ptr<table_store> store = std::make_shared<table_store>();
  table_top table;
  table_mover mover;
};

} // namespace

TEST_CASE("a sequence that ends has its full pages saved, once, and they stay in use until then") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  auto& batching = t.table.batching;
  const auto first = t.table.submit(1, 70, tokens(30)); // 99 tokens are computed: three pages are full
  t.table.run();
  REQUIRE(first->end);
  CHECK(batching.usage().pages_in_use == 3);
  CHECK(batching.idle());
  CHECK_FALSE(batching.waits_for_moves());
  REQUIRE(t.mover.take() == 1);
  CHECK(t.mover.started.front()->first == 0);
  t.mover.end();
  CHECK(batching.next_step(t.table.now) == nullptr);
  CHECK(batching.usage().pages_in_use == 0);
  CHECK(batching.usage().pages_cached == 4);
  CHECK(t.mover.saved == 3);

  auto again = table_top::some_prompt(70);
  for (const auto id : first->ids())
    again.push_back(id);
  const auto second = t.table.submit(2, again, tokens(40)); // 139 tokens: the fourth page is new
  t.run();
  REQUIRE(second->end);
  CHECK(second->ids() == expected(again, 40));
  CHECK(t.mover.saved == 4);
  CHECK(t.mover.restored == 0);
}

TEST_CASE("pages that left the device are restored, and the reply is the same") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  const auto other = t.table.submit(2, table_top::some_prompt(250, 30), tokens(1)); // takes all eight pages
  t.run();
  REQUIRE(other->end);
  const auto back = t.table.submit(3, prompt, tokens(20));
  CHECK(t.table.step() == 0); // until it is restored
  CHECK(t.table.batching.waits_for_moves());
  REQUIRE(t.mover.take() == 1);
  CHECK(t.mover.started.front()->way == page_move::direction::restore);
  CHECK(t.mover.started.front()->keys.size() == 4);
  t.run();
  REQUIRE(back->end);
  CHECK(back->end->reused_tokens == 128);
  CHECK(back->ids() == expected(prompt, 20));
}

TEST_CASE("a restore that ends half way leaves the rest to be computed") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  (void)t.table.submit(2, table_top::some_prompt(250, 30), tokens(1));
  t.run();
  const std::size_t pages = GENERATE(0, 1, 3);
  const auto back = t.table.submit(3, prompt, tokens(20));
  CHECK(t.table.step() == 0);
  REQUIRE(t.mover.take() == 1);
  for (auto i = t.mover.started.front()->keys.size(); i-- > pages;)
    t.store->pages.erase(t.mover.started.front()->keys[i]); // as a store does that finds them damaged
  t.run();
  REQUIRE(back->end);
  CHECK(back->end->reused_tokens == 32 * pages);
  CHECK(back->ids() == expected(prompt, 20));
}

TEST_CASE("a sequence waits for pages that are being saved, and then has all of its beginning restored") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  const auto other = t.table.submit(2, table_top::some_prompt(250, 30), tokens(1));
  t.table.run();
  REQUIRE(other->end);
  const auto back = t.table.submit(3, prompt, tokens(20));
  CHECK(t.table.step() == 0);
  REQUIRE(t.mover.take() == 2); // a save, and what waits is brought near
  CHECK(t.mover.started.front()->way == page_move::direction::save);
  t.run();
  CHECK(back->end->reused_tokens == 128);
  CHECK(back->ids() == expected(prompt, 20));
}

TEST_CASE("steps of the others go on while a sequence is restored") {
  stored_table_top t(shape_of(256, 64, 2, 512));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  t.table.batching.fail_all(error(errc::cancelled, "forgotten on the device"));
  const auto other = t.table.submit(2, table_top::some_prompt(10, 30), tokens(60));
  CHECK(t.table.step() == 10);
  t.table.draw();
  const auto back = t.table.submit(3, prompt, tokens(5));
  for (int i = 0; i < 4; ++i) {
    CHECK(t.table.step() == 1);
    t.table.draw();
    CHECK(t.mover.take() == 1);
  }
  t.mover.end();
  CHECK(t.table.step() == 1 + 22);
  t.table.draw();
  t.run();
  CHECK(back->ids() == expected(prompt, 5));
  CHECK(other->ids() == expected(table_top::some_prompt(10, 30), 60));
}

TEST_CASE("two sequences with one stored beginning have it restored once") {
  stored_table_top t(shape_of(256, 64, 4, 512));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  t.table.batching.fail_all(error(errc::cancelled, "forgotten on the device"));
  const auto a = t.table.submit(2, prompt, tokens(5)), b = t.table.submit(3, prompt, tokens(7));
  t.run();
  CHECK(a->ids() == expected(prompt, 5));
  CHECK(b->ids() == expected(prompt, 7));
  CHECK(t.mover.restored == 4);
}

TEST_CASE("a sequence that is preempted comes back with what was saved, and nobody has its pages before") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  const auto a = t.table.submit(1, table_top::some_prompt(100), tokens(100));
  const auto b = t.table.submit(2, table_top::some_prompt(90, 30), tokens(100));
  while (t.table.batching.usage().preemptions == 0) {
    REQUIRE(t.table.step() > 0);
    t.table.draw();
  }
  REQUIRE(t.mover.take() == 1);
  CHECK(t.mover.started.front()->way == page_move::direction::save);
  std::size_t steps = 0;
  for (; t.table.step() > 0; ++steps) // the other one may have the page that was not full
    t.table.draw();
  CHECK(steps < 2 * kv_page_tokens);
  CHECK(t.mover.take() == 1);
  CHECK(t.table.batching.usage().preemptions == 1);
  t.run();
  CHECK(a->ids() == expected(table_top::some_prompt(100), 100));
  CHECK(b->ids() == expected(table_top::some_prompt(90, 30), 100));
  CHECK(t.mover.restored > 0);
}

TEST_CASE("requests that end while they are restored leave nothing in use") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  t.table.batching.fail_all(error(errc::cancelled, "forgotten on the device"));
  const auto back = t.table.submit(2, prompt, tokens(5));
  CHECK(t.table.step() == 0);
  REQUIRE(t.mover.take() == 1);
  SECTION("cancelled") {
    t.table.batching.cancel(2, t.table.now);
    REQUIRE(back->end);
  }
  SECTION("everything failed: the pages are nobody's until the mover is done with them") {
    t.table.batching.fail_all(error(errc::device_failed, "for the test"));
    CHECK(back->failure);
    CHECK(t.table.batching.usage().pages_in_use == 4);
  }
  t.run();
  CHECK(t.table.batching.usage().pages_in_use == 0);
  const auto again = t.table.submit(3, prompt, tokens(5));
  t.run();
  CHECK(again->ids() == expected(prompt, 5));
}

TEST_CASE("moves that were not started end when everything fails") {
  stored_table_top t(shape_of(256, 64, 2, 256));
  (void)t.table.submit(1, 150, tokens(1));
  t.table.run();
  CHECK(t.table.batching.wanted_move());
  t.table.batching.fail_all(error(errc::device_failed, "for the test"));
  CHECK_FALSE(t.table.batching.wanted_move());
  CHECK(t.table.batching.usage().pages_in_use == 0);
}

TEST_CASE("a forced limit waits for pages that are being saved, and preempts no more than it must") {
  stored_table_top t(shape_of(256, 64, 2, 512));
  const auto a = t.table.submit(1, table_top::some_prompt(100), tokens(60));
  const auto b = t.table.submit(2, table_top::some_prompt(90, 30), tokens(60));
  for (int i = 0; i < 4; ++i) {
    CHECK(t.table.step() > 0);
    t.table.draw();
  }
  t.table.batching.set_page_limit(5, true);
  CHECK(t.table.step() == 1); // the first goes on
  CHECK(t.table.batching.usage().preemptions == 1);
  CHECK_FALSE(t.table.batching.within_page_limit());
  t.table.draw();
  REQUIRE(t.mover.take() == 1);
  t.mover.end();
  CHECK(t.table.step() == 1);
  t.table.draw();
  CHECK(t.table.batching.within_page_limit());
  t.table.batching.set_page_limit(16);
  t.run();
  CHECK(a->ids() == expected(table_top::some_prompt(100), 60));
  CHECK(b->ids() == expected(table_top::some_prompt(90, 30), 60));
}

TEST_CASE("the stored pages of a waiting sequence are brought near once, before its turn") {
  stored_table_top t(shape_of(256, 64, 1, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  t.table.batching.fail_all(error(errc::cancelled, "forgotten on the device"));
  (void)t.table.submit(2, table_top::some_prompt(100, 30), tokens(20));
  CHECK(t.table.step() > 0);
  t.table.draw();
  const auto back = t.table.submit(3, prompt, tokens(5));
  t.run();
  CHECK(t.mover.prefetched == 1);
  CHECK(t.mover.restored == 4);
  CHECK(back->ids() == expected(prompt, 5));
}

TEST_CASE("a context that moves has saved what was computed before") {
  stored_table_top t(shape_of(64, 64, 1, 64));
  auto options = tokens(100);
  options.context_shift = true;
  const auto reply = t.table.submit(1, 40, options);
  t.run();
  REQUIRE(reply->end);
  CHECK(t.mover.saved > 0); // each was compared with the tokens that it is named by
}

TEST_CASE("scored sequences are not saved") {
  stored_table_top t(shape_of(256, 64, 1, 256));
  const auto scored = t.table.submit(1, 150, {}, true);
  while (!scored->ended()) {
    CHECK(t.table.step() > 0);
    t.table.batching.logits_consumed(1, t.table.now);
  }
  CHECK(t.mover.take() == 0);
}

TEST_CASE("an idle batcher gives up what the store has, and finds it there again") {
  stored_table_top t(shape_of(256, 64, 1, 256));
  const auto prompt = table_top::some_prompt(150);
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  t.table.in_flight.reset();
  CHECK(t.table.batching.usage().pages_cached == 5);
  t.table.batching.idle_for_a_while();
  CHECK(t.table.batching.usage().pages_cached == 0);
  CHECK(t.table.memory.taken() == 0);
  const auto back = t.table.submit(2, prompt, tokens(5));
  t.run();
  CHECK(t.mover.restored == 4);
  CHECK(back->ids() == expected(prompt, 5));
}

TEST_CASE("a borrower of stored pages waits until they are restored, once") {
  stored_table_top t(shape_of(256, 64, 1, 256));
  auto& batching = t.table.batching;
  const auto prompt = table_top::some_prompt(150);
  CHECK_FALSE(batching.wait_for_beginning(7, prompt)); // nothing is stored
  (void)t.table.submit(1, prompt, tokens(1));
  t.run();
  batching.fail_all(error(errc::cancelled, "forgotten on the device"));
  t.table.in_flight.reset();
  CHECK(batching.wait_for_beginning(7, prompt)); // for extents
  CHECK(t.table.answer_all());
  CHECK(batching.wait_for_beginning(7, prompt));
  CHECK(batching.wait_for_beginning(8, prompt)); // for the same move
  REQUIRE(t.mover.take() == 1);
  const std::size_t pages = GENERATE(4, 2, 0); // fewer: it fails
  t.mover.end(0, pages);
  CHECK(batching.wait_for_beginning(7, prompt));
  CHECK(batching.next_step(t.table.now) == nullptr);
  CHECK_FALSE(batching.wait_for_beginning(7, prompt));
  CHECK(batching.lend(7, prompt).tokens == pages * kv_page_tokens);
  CHECK_FALSE(batching.wait_for_beginning(7, prompt));
  CHECK(batching.give_back(7));
  CHECK(batching.wait_for_beginning(8, prompt) == (pages < 4));
}

TEST_CASE("pages that are restored more slowly than computed are computed") {
  move_costs costs;
  const move_costs::clock::time_point now{std::chrono::hours(1)};
  CHECK(costs.worth_moving(now));
  costs.computed(64, 1.0); // half a second for a page
  costs.computed(1, 9.0);  // no prompt
  CHECK(costs.worth_moving(now));
  costs.restored(10, 4.0, now);
  CHECK(costs.worth_moving(now));
  for (int i = 0; i < 20; ++i)
    costs.restored(2, 1.2, now);
  CHECK_FALSE(costs.worth_moving(now));
  CHECK_FALSE(costs.worth_moving(now + move_costs::memory));
  CHECK(costs.worth_moving(now + move_costs::memory + std::chrono::seconds(1)));
  costs.restored(0, 100, now); // nothing was
  for (int i = 0; i < 20; ++i)
    costs.restored(2, 0.1, now);
  CHECK(costs.worth_moving(now));
}
