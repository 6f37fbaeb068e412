// The state machine of batches, driven by hand: no device, no actors.
#include "tests/unit/schedule/table_top.hpp"

#include <random>

using namespace tropilla;
using testing::expected;
using testing::model_says;
using testing::recording_sink;
using testing::shape_of;
using testing::table_top;
using testing::tokens;

TEST_CASE("a prompt goes in as steps of the chunk's size and asks for a token after the last") {
  table_top t;
  const auto sink = t.submit(1, 40);
  CHECK(t.step() == 16);
  CHECK(t.draws.empty());
  CHECK(t.step() == 16);
  CHECK(t.step() == 8);
  CHECK(t.in_flight->sequences.front().position == 32);
  CHECK(t.draws.size() == 1);
  CHECK(t.batching.next_step(t.now) == nullptr); // not before the token is drawn
  t.draw(65);
  REQUIRE(sink->pieces.size() == 1);
  CHECK(sink->pieces[0].id == 65);
  CHECK(t.step() == 1);
  CHECK(t.in_flight->sequences.front().position == 40);
}

TEST_CASE("a reply ends at max_tokens with its statistics") {
  table_top t;
  const auto sink = t.submit(1, 10, tokens(3));
  for (int i = 0; i < 3; ++i) {
    CHECK(t.step() > 0);
    t.draw(70 + i);
  }
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::length);
  CHECK(sink->pieces.back().finish == finish_reason::length);
  CHECK(sink->end->generated_tokens == 3);
  CHECK(sink->end->prompt_tokens == 10);
  CHECK(sink->end->prefill_seconds == Approx(1));
  CHECK(sink->end->decode_seconds == Approx(2));
  CHECK(sink->end->compute_seconds == Approx(1.5));
  CHECK(sink->end->load_seconds == Approx(1.0));
  CHECK(sink->end->decode_rate() == Approx(1));
  CHECK(t.batching.idle());
}

TEST_CASE("a token that ends the reply stops it, unless that is ignored") {
  table_top t;
  const auto eos = t.tok.eos();
  REQUIRE(eos >= 0);
  const auto sink = t.submit(1, 4);
  t.step();
  t.draw(eos);
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::stop);
  REQUIRE(sink->pieces.size() == 1);
  CHECK(sink->pieces[0].text.empty());
  const auto going_on = t.submit(2, 4, tokens(2));
  t.step();
  t.draw(eos);
  CHECK_FALSE(going_on->end);
}

TEST_CASE("a token of the request's own ends it, too") {
  table_top t;
  auto o = tokens(5);
  o.stop_tokens = {71};
  const auto sink = t.submit(1, 4, o);
  t.step();
  t.draw(70);
  t.step();
  t.draw(71);
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::stop);
  CHECK(sink->ids() == std::vector<token_id>{70, 71});
}

TEST_CASE("a reply ends where the context does, after its last token fits") {
  table_top t;
  const auto sink = t.submit(1, 60, tokens(1000));
  t.run();
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::context);
  CHECK(sink->ids().size() == 5); // 60 in the cache; four more are computed there, the fifth is only told
}

TEST_CASE("a context that shifts forgets half of what is not kept, and the reply goes on") {
  table_top t(shape_of(64, 16, 2, 128));
  auto o = tokens(40);
  o.context_shift = true;
  o.context_keep = 10;
  const auto prompt = table_top::some_prompt(60);
  const auto sink = t.submit(1, prompt, o);
  t.run();
  REQUIRE(sink->end);
  CHECK(sink->end->finish == finish_reason::length);
  std::vector<token_id> context = prompt, want;
  while (want.size() < 40) {
    want.push_back(model_says(context, 0));
    context.push_back(want.back());
    if (context.size() > 64)
      context.erase(context.begin() + 10, context.begin() + 10 + (65 - 10) / 2);
  }
  CHECK(sink->ids() == want);
}

TEST_CASE("a prompt that begins as another sequence did reuses its pages") {
  table_top t;
  t.submit(1, 20, tokens(1));
  t.run();
  const auto longer = t.submit(2, 30, tokens(1));
  CHECK(t.step() == 10);
  CHECK(t.in_flight->sequences.front().position == 20);
  t.draw();
  REQUIRE(longer->end);
  CHECK(longer->end->reused_tokens == 20);
  const auto same = t.submit(3, 30, tokens(1)); // all of it is there, but the last token's logits are wanted
  CHECK(t.step() == 1);
  t.draw();
  REQUIRE(same->end);
  CHECK(same->end->reused_tokens == 29);
  CHECK(same->ids() == expected(table_top::some_prompt(30), 1));
}

TEST_CASE("pages that a prompt shares with an active sequence are not asked for again when it is admitted") {
  constexpr std::size_t prompt = 3 * kv_page_tokens + 1; // four pages, of which three are shared
  table_top t(shape_of(4 * kv_page_tokens, prompt, 2, 6 * kv_page_tokens));
  t.submit(1, prompt, tokens(5));
  CHECK(t.step() == prompt);
  t.draw();
  const auto same = t.submit(2, prompt, tokens(1));
  CHECK(t.step() == 1 + 1);
  t.draw();
  REQUIRE(same->end);
  CHECK(same->end->reused_tokens == prompt - 1);
}

TEST_CASE("a step asks for as many of the top-k logits as who needs most of them, and for all where one does") {
  const auto asked_by = [](std::size_t first, std::size_t second) {
    const auto at = [](std::size_t k) {
      auto o = tokens(2);
      o.sampling.temperature = 1;
      o.sampling.top_k = k;
      return o;
    };
    table_top t(shape_of(64, 16, 2, 128));
    t.submit(1, table_top::some_prompt(3, 1), at(first));
    t.submit(2, table_top::some_prompt(3, 50), at(second));
    CHECK(t.step() == 6);
    return t.in_flight->top_k;
  };
  CHECK(asked_by(5, 40) == 40);
  CHECK(asked_by(40, 5) == 40);
  CHECK(asked_by(0, 5) == 0);
  CHECK(asked_by(5, 0) == 0);
}

TEST_CASE("sequences join and leave between steps, and share each with the prompts that arrive") {
  table_top t(shape_of(128, 16, 4, 512));
  const auto a = t.submit(1, table_top::some_prompt(10, 1), tokens(6));
  CHECK(t.step() == 10);
  t.draw();
  const auto b = t.submit(2, table_top::some_prompt(30, 300), tokens(2));
  CHECK(t.step() == 1 + 8); // who decodes waits for no more than half of a step
  CHECK(t.in_flight->sequences.size() == 2);
  CHECK(t.draws.size() == 1);
  t.draw();
  CHECK(t.step() == 1 + 8);
  t.draw();
  const auto c = t.submit(3, table_top::some_prompt(3, 600), tokens(1));
  CHECK(t.step() == 1 + 8);
  t.draw();
  CHECK(t.step() == 1 + 6 + 2); // the rest of b, and a beginning of c
  CHECK(t.draws.size() == 2);
  t.draw();
  CHECK(t.step() == 1 + 1 + 1);
  t.draw();
  CHECK(a->end);
  CHECK(b->end);
  CHECK(c->end);
  CHECK(a->ids() == expected(table_top::some_prompt(10, 1), 6));
  CHECK(b->ids() == expected(table_top::some_prompt(30, 300), 2));
  CHECK(c->ids() == expected(table_top::some_prompt(3, 600), 1));
  CHECK(t.batching.idle());
  CHECK(t.batching.usage().pages_in_use == 0);
}

TEST_CASE("priorities go first, then deadlines, then who came first") {
  table_top t(shape_of(64, 64, 1, 64));
  t.submit(1, 4, tokens(1));
  auto o = tokens(1);
  const auto plain = t.submit(2, 4, o);
  o.deadline_seconds = 50;
  const auto late = t.submit(3, 4, o);
  o.deadline_seconds = 20;
  const auto soon = t.submit(4, 4, o);
  o = tokens(1);
  o.priority = 1;
  const auto important = t.submit(5, 4, o);
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) {
    t.step();
    t.draw();
    order.push_back((important->ended() ? 1000 : 0) + (soon->ended() ? 100 : 0) + (late->ended() ? 10 : 0) +
                    (plain->ended() ? 1 : 0));
  }
  CHECK(order == std::vector<int>{1000, 1100, 1110, 1110, 1111});
}

TEST_CASE("when pages run out the last in order gives up its own, and its reply stays the same") {
  table_top t(shape_of(96, 32, 3, 96)); // three pages
  const auto a = t.submit(1, table_top::some_prompt(20, 1), tokens(40));
  const auto b = t.submit(2, table_top::some_prompt(20, 300), tokens(40));
  t.run();
  CHECK(t.batching.usage().preemptions > 0);
  CHECK(a->ids() == expected(table_top::some_prompt(20, 1), 40));
  CHECK(b->ids() == expected(table_top::some_prompt(20, 300), 40));
}

TEST_CASE("outputs of one prompt share its pages and draw from seeds of their own") {
  table_top t(shape_of(128, 64, 8, 512));
  auto o = tokens(5);
  o.outputs = 3;
  o.sampling.seed = 9;
  const auto prompt = table_top::some_prompt(50);
  const auto sink = t.submit(1, prompt, o);
  CHECK(t.step() == 50);
  CHECK(t.draws.size() == 3);
  t.draw();
  CHECK(t.step() == 3);
  CHECK(t.in_flight->copies.size() == 2);
  t.draw();
  t.run();
  REQUIRE(sink->end);
  CHECK(sink->end->generated_tokens == 15);
  CHECK(sink->ids(0) == expected(prompt, 5, 9));
  CHECK(sink->ids(1).size() == 5);
  CHECK(sink->ids(1) != sink->ids(0));
  CHECK(sink->ids(2) != sink->ids(1));
  CHECK(std::ranges::count_if(sink->pieces, [](const piece& p) { return p.finish.has_value(); }) == 3);
  CHECK(t.batching.idle());
}

TEST_CASE("a reply does not depend on what else is in the batch, on chunks, on pages or on who leaves") {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    INFO("round " << round);
    const std::size_t context = 64 + 32 * (random() % 4), sequences = 1 + random() % 6;
    table_top t(shape_of(context, sequences + random() % 40, sequences, context + 32 * (random() % 8)));
    struct client {
      std::vector<token_id> prompt;
      generation_options options;
      std::shared_ptr<recording_sink> sink;
      bool cancelled = false;
    };
    std::vector<client> clients;
    for (request_id next = 1; next <= 40 || !t.batching.idle();) {
      if (next <= 40 && random() % 2 == 0) {
        client c;
        for (std::size_t n = 1 + random() % (context - 1); c.prompt.size() < n;)
          c.prompt.push_back(static_cast<token_id>(c.prompt.size() < 40 ? 7 : random() % 3));
        c.options = tokens(1 + random() % 30);
        c.options.priority = static_cast<int>(random() % 3);
        c.options.outputs = 1 + (random() % 4 == 0) * (random() % 3);
        c.options.sampling.seed = random();
        c.sink = t.submit(next++, c.prompt, c.options);
        clients.push_back(std::move(c));
      }
      if (random() % 30 == 0 && !clients.empty()) {
        const std::size_t i = random() % clients.size();
        clients[i].cancelled |= !clients[i].sink->ended();
        t.batching.cancel(i + 1, t.now);
      }
      if (t.step() > 0)
        t.draw();
    }
    CHECK(t.batching.usage().pages_in_use == 0);
    for (const auto& c : clients) {
      REQUIRE(c.sink->ended());
      REQUIRE(c.sink->end);
      const auto fits = context + 1 - c.prompt.size();
      const auto want = expected(c.prompt, std::min(c.options.max_tokens, fits), c.options.sampling.seed);
      const auto got = c.sink->ids();
      REQUIRE(got.size() <= want.size());
      CHECK(std::equal(got.begin(), got.end(), want.begin()));
      CHECK((c.cancelled || got.size() == want.size()));
    }
  }
}
