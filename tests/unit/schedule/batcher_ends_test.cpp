// How requests end before their time: cancelled, given up, late, refused, failed, and read out.
#include "tests/unit/schedule/table_top.hpp"

using namespace tropilla;
using testing::expected;
using testing::recording_sink;
using testing::shape_of;
using testing::table_top;
using testing::tokens;

TEST_CASE("cancelling ends a queued request at once and an active one after its step") {
  table_top t;
  const auto active = t.submit(1, 40);
  const auto queued = t.submit(2, 4);
  REQUIRE(t.next_step());
  t.batching.cancel(2, t.now);
  REQUIRE(queued->end);
  CHECK(queued->end->finish == finish_reason::cancelled);
  t.batching.cancel(1, t.now);
  CHECK_FALSE(active->end); // its step is in flight
  (void)t.batching.step_done({}, {1, 0}, t.now);
  REQUIRE(active->end);
  CHECK(active->end->finish == finish_reason::cancelled);
  t.batching.cancel(77, t.now); // unknown: ignored
  CHECK(t.batching.idle());
  CHECK(t.batching.usage().pages_in_use == 0);
}

TEST_CASE("a client that gives up, or stops reading, ends its reply and holds nothing") {
  table_top t(shape_of(64, 64, 2, 128));
  sequence_request r;
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  const auto sink = std::make_shared<recording_sink>();
  r.id = 1;
  r.prompt = {1, 2, 3};
  r.options = tokens(50);
  r.sink = sink;
  r.abandoned = gone;
  t.batching.submit(r);
  const auto slow = t.submit(2, 4, tokens(50));
  slow->most = 3;
  for (int i = 0; i < 3; ++i) {
    t.step();
    t.draw();
  }
  REQUIRE(slow->failure);
  CHECK(slow->failure->code() == errc::cancelled);
  *gone = true;
  CHECK(t.step() == 0);
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::cancelled);
  CHECK(t.batching.usage().pages_in_use == 0);
}

TEST_CASE("a request that takes too long fails, waiting or active, and the others go on") {
  table_top t(shape_of(64, 64, 1, 64));
  const auto other = t.submit(1, 4, tokens(20));
  auto o = tokens(5);
  o.timeout_seconds = 3;
  const auto waiting = t.submit(2, 4, o);
  CHECK(t.batching.next_timeout() == t.now + std::chrono::seconds(3));
  t.run();
  REQUIRE(waiting->failure);
  CHECK(waiting->failure->code() == errc::timed_out);
  REQUIRE(other->end);
  const auto active = t.submit(3, 4, o);
  o.max_tokens = 50;
  t.run();
  REQUIRE(active->failure);
  CHECK(active->ids().size() >= 2);
  CHECK_FALSE(t.batching.next_timeout());
}

TEST_CASE("a full queue refuses with the numbers, and takes more when it has room") {
  table_top t(shape_of(64, 64, 1, 64), 2);
  t.submit(1, 4, tokens(1));
  t.submit(2, 4, tokens(1));
  try {
    t.submit(3, 4, tokens(1));
    FAIL("it was accepted");
  } catch (const error& e) {
    CHECK(e.code() == errc::busy);
    CHECK_THAT(e.what(), Catch::Contains("2 requests"));
  }
  t.step();
  CHECK_NOTHROW(t.submit(3, 4, tokens(1)));
}

TEST_CASE("a failed step fails its requests, and what follows starts from pages that are known") {
  table_top t;
  const auto bad = t.submit(1, 10);
  const auto good = t.submit(2, 10);
  REQUIRE(t.next_step());
  t.batching.step_failed(error(errc::io_error, "the disk is gone"), t.now);
  REQUIRE(bad->failure);
  CHECK(bad->failure->code() == errc::io_error);
  CHECK(t.step() == 10);
  CHECK(t.in_flight->sequences.front().position == 0);
  t.draw(-1);
  REQUIRE(good->failure);
  CHECK_THAT(std::string(good->failure->what()), Catch::Contains("finite"));
  CHECK(t.batching.usage().pages_in_use == 0);
}

TEST_CASE("a step may be computed twice, and its logits be lost") {
  table_top t(shape_of(64, 16, 2, 128));
  const auto sink = t.submit(1, 40, tokens(4));
  for (int i = 0; !sink->end; ++i) {
    REQUIRE(i < 20);
    REQUIRE(t.step() > 0);
    if (t.draws.empty())
      continue;
    t.batching.logits_lost();
    const auto again = t.batching.step_in_flight();
    REQUIRE(again == t.in_flight);
    t.compute(*again);
    t.draws = t.batching.step_done({}, {1, 1}, t.now);
    t.draw();
  }
  CHECK(sink->ids() == expected(table_top::some_prompt(40), 4));
}

TEST_CASE("scoring hands out every row's logits, waits for the reader, and takes turns with replies") {
  table_top t(shape_of(64, 16, 2, 128));
  const auto sink = t.submit(1, 10, {}, true);
  const auto reply = t.submit(2, table_top::some_prompt(3, 50), tokens(2));
  CHECK(t.step() == 4);
  CHECK(t.batching.next_step(t.now) == nullptr);
  t.batching.logits_consumed(1, t.now);
  CHECK(t.step() == 3);
  t.draw();
  CHECK(t.step() == 4);
  t.batching.logits_consumed(1, t.now);
  CHECK(t.step() == 1);
  t.draw();
  CHECK(reply->end);
  CHECK(t.step() == 2);
  CHECK_FALSE(sink->end);
  t.batching.logits_consumed(1, t.now);
  REQUIRE(sink->end);
  CHECK(sink->scored == std::vector<std::pair<std::size_t, std::size_t>>{{0, 4}, {4, 4}, {8, 2}});
}

TEST_CASE("nobody holds what a reply that ended was for") {
  table_top t;
  generation_options o;
  o.max_tokens = 3;
  const std::weak_ptr<recording_sink> sink = t.submit(1, 5, o);
  while (t.step() > 0)
    t.draw();
  t.draws.clear();
  CHECK(t.batching.idle());
  CHECK(sink.expired());
}

TEST_CASE("when all fails, everybody is told") {
  table_top t;
  const auto a = t.submit(1, 10);
  const auto b = t.submit(2, 10);
  REQUIRE(t.next_step());
  t.batching.fail_all(error(errc::device_failed, "compute ended"));
  CHECK(a->failure);
  CHECK(b->failure);
  CHECK(t.batching.idle());
  CHECK(t.batching.step_in_flight() == nullptr); // a scheduler that takes over computes nothing of it
  CHECK(t.batching.next_step(t.now) == nullptr);
}
