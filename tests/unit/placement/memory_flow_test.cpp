// The order in which memory moves between weights and pages, and what becomes of wishes when something fails.
#include "src/placement/memory_flow.hpp"

#include "tests/unit/placement/balance_fixture.hpp"
#include "tests/unit/schedule/table_top.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using testing::table_top;

namespace {

using flow_clock = memory_flow::clock;

flow_clock::time_point at(double seconds) {
  return flow_clock::time_point(
      std::chrono::duration_cast<flow_clock::duration>(std::chrono::duration<double>(seconds)));
}

/// A batcher driven by hand, with a flow over one device that holds 16 of its pages beside all weights.
struct flow_fixture {
  flow_fixture() {
    auto shape = testing::shape_of(model.inputs.front().shape.context, 16, 4, 0);
    shape.kv_tokens = testing::balance_fixture::max_pages * kv_page_tokens;
    table.emplace(shape, 1000, testing::extent_refusal{}, testing::balance_fixture::extent_pages);
    memory_flow_setup setup{.balance = balance,
                            .batching = std::shared_ptr<batcher>(&table->batching, [](batcher*) {}),
                            .pinned = [this] { return pinned; },
                            .pledge = [this](std::size_t n) { pledged = n; }};
    flow.emplace(std::move(setup));
  }

  testing::balance_fixture model;
  std::optional<table_top> table;
  std::shared_ptr<memory_balance> balance = std::make_shared<memory_balance>(model.balance_with(18));
  bool pinned = false;
  std::size_t pledged = 0;
  std::size_t pages = balance->current().kv_pages; ///< beside all weights
  std::optional<memory_flow> flow;
};

template <class Action>
std::size_t count(const memory_flow::actions& todo) {
  return static_cast<std::size_t>(
      std::ranges::count_if(todo, [](const auto& a) { return std::holds_alternative<Action>(a); }));
}

std::optional<error> failure_of(const memory_flow::actions& todo) {
  for (const auto& a : todo)
    if (const auto* answer = std::get_if<memory_flow::answer_wish>(&a))
      return answer->failure;
  FAIL("there is no answer");
  return std::nullopt;
}

} // namespace

TEST_CASE("for more pages the weights change first, and then the limit rises") {
  flow_fixture f;
  CHECK(f.pledged == f.pages);
  f.flow->want_pages(f.pages + 1);
  const auto todo = f.flow->look(at(0));
  REQUIRE(count<memory_flow::change>(todo) == 1);
  CHECK(count<memory_flow::answer_wish>(todo) == 0);
  CHECK(f.flow->page_limit() == f.pages);
  CHECK(f.pledged == f.pages);
  CHECK(f.flow->look(at(1)).empty()); // one move at a time
  const auto done = f.flow->changed(0, at(2));
  CHECK(count<memory_flow::answer_wish>(done) == 1);
  CHECK_FALSE(failure_of(done));
  CHECK(f.flow->page_limit() > f.pages);
  CHECK(f.pledged == f.flow->page_limit());
  REQUIRE(f.flow->past_moves().size() == 1);
  CHECK(f.flow->past_moves().front().streamed_bytes > 0);
  CHECK(f.flow->past_moves().front().ended == at(2));
}

TEST_CASE("for fewer pages the limit falls first, and the weights change when the pages beyond it have gone") {
  flow_fixture f;
  f.flow->want_pages(testing::balance_fixture::max_pages);
  (void)f.flow->look(at(0));
  (void)f.flow->changed(0, at(0));
  const std::size_t most = f.flow->page_limit();
  // Nobody wants pages: weights come back after the rest. Cached pages stand in the way until the next step.
  std::vector<std::shared_ptr<testing::recording_sink>> sinks;
  generation_options o;
  o.max_tokens = 1;
  for (std::size_t i = 0; i < 40; ++i)
    sinks.push_back(f.table->submit(i, table_top::some_prompt(kv_page_tokens, static_cast<token_id>(1 + i)), o));
  f.table->run();
  REQUIRE(f.table->batching.usage().pages_cached > f.pages);
  const auto early = f.flow->look(at(1000));
  CHECK(early.empty());
  CHECK(f.pledged < most);
  CHECK(f.flow->page_limit() == most);
  CHECK_FALSE(f.table->batching.next_step(f.table->now)); // gives up what is cached beyond the limit
  CHECK(count<memory_flow::change>(f.flow->look(at(1000))) == 1);
  (void)f.flow->changed(0, at(1001));
  CHECK(f.flow->page_limit() == f.pages);
}

TEST_CASE("while nothing is asked for, a flow wants to look until weights have come back, however looks fall") {
  flow_fixture f;
  CHECK_FALSE(f.flow->next_look());
  f.flow->want_pages(f.pages + 1);
  (void)f.flow->look(at(0));
  CHECK_FALSE(f.flow->next_look()); // the devices will tell
  (void)f.flow->changed(0, at(2));
  CHECK(f.flow->look(at(2.5)).empty());
  CHECK(f.flow->next_look() == at(3)); // when the rest after a move is over
  CHECK(f.flow->look(at(2.99)).empty());
  REQUIRE(f.flow->next_look());
  CHECK(*f.flow->next_look() > at(3)); // not at once after another look, but later
  CHECK(count<memory_flow::change>(f.flow->look(*f.flow->next_look())) == 1);
  (void)f.flow->changed(0, at(3.1));
  CHECK(f.flow->page_limit() == f.pages);
  CHECK(f.flow->look(at(5)).empty());
  CHECK_FALSE(f.flow->next_look()); // there is nothing left to do
}

TEST_CASE("a placement that can't be had leaves the division as it was, and fails the wish") {
  flow_fixture f;
  f.flow->want_pages(f.pages + 1);
  f.flow->want_pages(1);
  REQUIRE(count<memory_flow::change>(f.flow->look(at(0))) == 1);
  const auto todo = f.flow->not_changed(0, error(errc::io_error, "no"), at(1));
  REQUIRE(failure_of(todo));
  CHECK(failure_of(todo)->code() == errc::io_error);
  CHECK(f.flow->page_limit() == f.pages);
  CHECK(f.pledged == f.pages);
  const auto next = f.flow->look(at(2)); // the other wish needs no move
  CHECK(count<memory_flow::change>(next) == 0);
  CHECK_FALSE(failure_of(next));
}

TEST_CASE("budgets are wishes, too: refused with the numbers, or followed") {
  flow_fixture f;
  f.flow->want_budget(0, 1);
  const auto refused = failure_of(f.flow->look(at(0)));
  REQUIRE(refused);
  CHECK(refused->code() == errc::over_budget);
  const std::size_t more = f.model.whole(testing::balance_fixture::max_pages);
  f.flow->want_budget(0, more);
  const auto todo = f.flow->look(at(0));
  REQUIRE(count<memory_flow::change>(todo) == 1);
  CHECK(std::get<memory_flow::change>(todo.front()).next_placement->budget == more);
  CHECK_FALSE(failure_of(f.flow->changed(0, at(0))));
  CHECK(f.flow->page_limit() == testing::balance_fixture::max_pages);
}

TEST_CASE("while replicas use the weights nothing moves, but for the replica that begins") {
  flow_fixture f;
  f.pinned = true;
  f.flow->want_budget(0, f.model.whole(testing::balance_fixture::max_pages));
  const auto refused = failure_of(f.flow->look(at(0)));
  REQUIRE(refused);
  CHECK(refused->code() == errc::invalid_argument);
  f.flow->want_pages(f.pages + 1);
  CHECK_FALSE(failure_of(f.flow->look(at(0)))); // those who restore a session make do with what there is
  CHECK(f.flow->page_limit() == f.pages);
  f.flow->want_pages(f.pages + 1, true);
  CHECK(count<memory_flow::change>(f.flow->look(at(0))) == 1);
}

TEST_CASE("who takes over goes on with the move, and wishes are asked for again") {
  flow_fixture f;
  f.flow->want_pages(f.pages + 1);
  REQUIRE(count<memory_flow::change>(f.flow->look(at(0))) == 1);
  CHECK(count<memory_flow::change>(f.flow->taken_over()) == 1);
  CHECK(count<memory_flow::change>(f.flow->again(0)) == 1);
  CHECK(f.flow->changed(0, at(1)).empty()); // nobody waits for the answer
  CHECK(f.flow->page_limit() > f.pages);
  CHECK(f.flow->changed(0, at(1)).empty()); // late
  CHECK(f.flow->again(0).empty());
}
