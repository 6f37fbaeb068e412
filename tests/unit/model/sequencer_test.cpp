// The state machine of a reply, driven by hand: no device, no actors.
#include "src/schedule/sequencer.hpp"

#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

struct recording_sink final : reply_sink {
  void token(piece p) override { pieces.push_back(std::move(p)); }
  void logits(std::size_t first, std::size_t rows, std::span<const float>) override {
    scored.emplace_back(first, rows);
  }
  void finished(const generation_statistics& s) override { end = s; }
  void failed(const error& why) override { failure = why; }

  std::vector<piece> pieces;
  std::vector<std::pair<std::size_t, std::size_t>> scored;
  std::optional<generation_statistics> end;
  std::optional<error> failure;
};

/// A sequencer over a context of 64 tokens in steps of 16, with a clock that it moves by hand.
struct table_top {
  explicit table_top(run_shape s = {64, 16, 4}) : shape(s), queue(tok, shape, std::vector<std::byte*>(2, nullptr)) {}

  std::shared_ptr<recording_sink> submit(request_id id, std::size_t prompt, generation_options options = {},
                                         bool score = false) {
    sequence_request r;
    r.id = id;
    for (std::size_t i = 0; i < prompt; ++i)
      r.prompt.push_back(static_cast<token_id>(i % 200 + 1));
    r.options = options;
    r.score = score;
    auto sink = std::make_shared<recording_sink>();
    r.sink = sink;
    r.submitted = now;
    queue.submit(r);
    return sink;
  }

  /// One step: its size, then what to do next. The clock moves by a second.
  std::size_t step() {
    const auto work = queue.next_step(now);
    if (!work)
      return 0;
    now += std::chrono::seconds(1);
    last_position = work->sequences.front().position;
    after = queue.step_done({}, {0.75, 0.5}, now);
    return work->ids.size();
  }

  gguf_file file = gguf_file::open(testing::tiny_model());
  tokenizer tok{file};
  run_shape shape;
  sequencer queue;
  sequencer::clock::time_point now{};
  sequencer::after_step after;
  std::size_t last_position = 0;
};

} // namespace

TEST_CASE("a prompt goes in as steps of the chunk's size and asks for a token after the last") {
  table_top t;
  const auto sink = t.submit(1, 40);
  CHECK(t.step() == 16);
  CHECK_FALSE(t.after.sample);
  CHECK(t.step() == 16);
  CHECK(t.step() == 8);
  CHECK(t.last_position == 32);
  CHECK(t.after.sample);
  CHECK(t.queue.next_step(t.now) == nullptr); // not before the token is drawn
  t.queue.sampled(65, t.now);
  REQUIRE(sink->pieces.size() == 1);
  CHECK(sink->pieces[0].id == 65);
  CHECK(t.step() == 1);
  CHECK(t.last_position == 40);
}

TEST_CASE("a reply ends at max_tokens with its statistics") {
  table_top t;
  generation_options o;
  o.max_tokens = 3;
  const auto sink = t.submit(1, 10, o);
  for (int i = 0; i < 3; ++i) {
    CHECK(t.step() > 0);
    t.queue.sampled(70 + i, t.now);
  }
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::length);
  CHECK(sink->end->generated_tokens == 3);
  CHECK(sink->end->prompt_tokens == 10);
  CHECK(sink->end->prefill_seconds == Approx(1));
  CHECK(sink->end->decode_seconds == Approx(2));
  CHECK(sink->end->compute_seconds == Approx(1.5));
  CHECK(sink->end->load_seconds == Approx(1.0));
  CHECK(sink->end->decode_rate() == Approx(1));
  CHECK(t.queue.idle());
}

TEST_CASE("a token that ends the reply stops it, unless that is ignored") {
  table_top t;
  const auto eos = t.tok.eos();
  REQUIRE(eos >= 0);
  const auto sink = t.submit(1, 4);
  t.step();
  t.queue.sampled(eos, t.now);
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::stop);
  REQUIRE(sink->pieces.size() == 1);
  CHECK(sink->pieces[0].text.empty());

  generation_options o;
  o.ignore_eos = true;
  o.max_tokens = 2;
  const auto going_on = t.submit(2, 4, o);
  t.step();
  t.queue.sampled(eos, t.now);
  CHECK_FALSE(going_on->end);
}

TEST_CASE("a reply ends where the context does, after its last token fits") {
  table_top t;
  generation_options o;
  o.max_tokens = 1000;
  const auto sink = t.submit(1, 60, o);
  std::size_t drawn = 0;
  while (!sink->end) {
    REQUIRE(t.step() > 0);
    if (t.after.sample) {
      t.queue.sampled(66, t.now);
      ++drawn;
    }
    REQUIRE(drawn < 10);
  }
  CHECK(sink->end->finish == finish_reason::context);
  CHECK(drawn == 5); // 60 in the cache; four more are computed there, the fifth is only told
}

TEST_CASE("a prompt that begins as the last sequence did reuses its cache") {
  table_top t;
  generation_options o;
  o.max_tokens = 1;
  t.submit(1, 20, o);
  t.step(), t.step();
  t.queue.sampled(66, t.now);
  const auto longer = t.submit(2, 30, o);
  CHECK(t.step() == 10);
  CHECK(t.last_position == 20);
  t.queue.sampled(66, t.now);
  REQUIRE(longer->end);
  CHECK(longer->end->reused_tokens == 20);

  const auto same = t.submit(3, 30, o); // all of it is there, but the last token's logits are wanted
  CHECK(t.step() == 1);
  t.queue.sampled(66, t.now);
  CHECK(same->end->reused_tokens == 29);
}

TEST_CASE("cancelling ends a queued request at once and an active one after its step") {
  table_top t;
  const auto active = t.submit(1, 40);
  const auto queued = t.submit(2, 4);
  const auto work = t.queue.next_step(t.now);
  REQUIRE(work);
  t.queue.cancel(2);
  REQUIRE(queued->end);
  CHECK(queued->end->finish == finish_reason::cancelled);
  t.queue.cancel(1);
  CHECK_FALSE(active->end); // its step is out
  (void)t.queue.step_done({}, {1, 0}, t.now);
  REQUIRE(active->end);
  CHECK(active->end->finish == finish_reason::cancelled);
  t.queue.cancel(77); // unknown: ignored
  CHECK(t.queue.idle());
}

TEST_CASE("a failed step fails its request, and the next one starts from an empty cache") {
  table_top t;
  const auto bad = t.submit(1, 10);
  const auto good = t.submit(2, 10);
  REQUIRE(t.queue.next_step(t.now));
  t.queue.step_failed(error(errc::io_error, "the disk is gone"));
  REQUIRE(bad->failure);
  CHECK(bad->failure->code() == errc::io_error);
  CHECK(t.step() == 10);
  CHECK(t.last_position == 0);
  t.queue.sampled(-1, t.now);
  REQUIRE(good->failure);
  CHECK_THAT(std::string(good->failure->what()), Catch::Contains("finite"));
}

TEST_CASE("scoring hands out every row's logits and waits for the reader") {
  table_top t;
  const auto sink = t.submit(1, 10, {}, true);
  CHECK(t.step() == 4);
  CHECK(t.queue.next_step(t.now) == nullptr);
  t.queue.logits_consumed(1, t.now);
  CHECK(t.step() == 4);
  t.queue.logits_consumed(1, t.now);
  CHECK(t.step() == 2);
  CHECK_FALSE(sink->end);
  t.queue.logits_consumed(1, t.now);
  REQUIRE(sink->end);
  CHECK(sink->scored == std::vector<std::pair<std::size_t, std::size_t>>{{0, 4}, {4, 4}, {8, 2}});
}

TEST_CASE("when all fails, everybody is told") {
  table_top t;
  const auto a = t.submit(1, 10);
  const auto b = t.submit(2, 10);
  REQUIRE(t.queue.next_step(t.now));
  t.queue.fail_all(error(errc::device_failed, "compute ended"));
  CHECK(a->failure);
  CHECK(b->failure);
  CHECK(t.queue.idle());
}

TEST_CASE("requests that can't run are refused with the numbers") {
  sequence_request r;
  CHECK_THROWS_WITH(check_request(r, 100, 16), Catch::Contains("empty"));
  r.prompt = {1, 2, 100};
  CHECK_THROWS_WITH(check_request(r, 100, 16), Catch::Contains("100"));
  r.prompt = {1, -1};
  CHECK_THROWS_AS(check_request(r, 100, 16), error);
  r.prompt.assign(16, 1);
  CHECK_THROWS_WITH(check_request(r, 100, 16), Catch::Contains("16") && Catch::Contains("17"));
  r.prompt.assign(15, 1);
  CHECK_NOTHROW(check_request(r, 100, 16));
  r.prompt.assign(16, 1);
  r.score = true;
  CHECK_NOTHROW(check_request(r, 100, 16));
  r.options.sampling.temperature = -1;
  CHECK_THROWS_AS(check_request(r, 100, 16), error);
}
