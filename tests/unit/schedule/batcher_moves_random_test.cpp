// Moves that end late, early or half way, in random orders beside limits and refusals: replies stay the same.
#include "tests/unit/schedule/table_store.hpp"

#include <random>

using namespace tropilla;
using testing::expected;
using testing::shape_of;
using testing::submit_random;
using testing::table_client;
using testing::table_mover;
using testing::table_store;
using testing::table_top;

TEST_CASE("whatever is saved, restored and lost, replies are what they are without a store") {
  std::mt19937 random(11);
  std::size_t preemptions = 0, saved = 0, restored = 0, prefetched = 0, failures = 0;
  for (int round = 0; round < 150; ++round) {
    INFO("round " << round);
    const std::size_t context = 64 + 32 * (random() % 4), extent_pages = 1 + random() % 3;
    const auto shape = shape_of(context, 4 + random() % 60, 1 + random() % 4, context + 32 * (random() % 10));
    const auto store = std::make_shared<table_store>();
    table_top t(shape, 1000, {}, extent_pages, store);
    table_mover mover(t, store);
    std::vector<table_client> clients;
    for (request_id next = 1; next <= 16 || !t.batching.idle();) {
      if (next <= 16 && random() % 3 == 0) {
        std::vector<token_id> begin;
        if (!clients.empty() && random() % 2 == 0) // goes on with a conversation
          begin = clients[random() % clients.size()].prompt;
        clients.push_back(submit_random(t, random, next++, std::move(begin)));
      }
      if (random() % 8 == 0)
        t.batching.set_page_limit(random() % (t.pages.size() + 1), random() % 2 == 0);
      if (random() % 20 == 0)
        (void)t.batching.give_back_cached(random() % 1000);
      if (random() % 100 == 0) {
        t.batching.fail_all(error(errc::device_failed, "for the test"));
        ++failures;
      }
      if (random() % 10 == 0 && !clients.empty())
        t.batching.cancel(1 + random() % clients.size(), t.now);
      if (!store->pages.empty() && random() % 4 == 0)
        store->pages.erase(store->pages.begin());
      const bool computed = t.step() > 0;
      if (computed)
        t.draw();
      if (mover.take() > 0 && (!computed || random() % 3 == 0))
        mover.end(random() % mover.started.size(), random() % 4 == 0 ? random() % 3 : ~std::size_t{0});
      if (!computed && t.batching.wants_pages())
        t.batching.set_page_limit(t.pages.size());
    }
    preemptions += t.batching.usage().preemptions;
    for (const auto& c : clients) {
      REQUIRE(c.sink->ended());
      const bool whole = c.sink->end && c.sink->end->finish != finish_reason::cancelled;
      const auto ids = c.sink->ids();
      const auto fits = context + 1 - c.prompt.size();
      auto all = expected(c.prompt, std::min(c.options.max_tokens, fits), c.options.sampling.seed);
      if (!whole && ids.size() < all.size())
        all.resize(ids.size());
      CHECK(ids == all);
    }
    mover.end_all();
    CHECK(t.batching.next_step(t.now) == nullptr);
    mover.end_all(); // of what ended in that look
    CHECK(t.batching.next_step(t.now) == nullptr);
    t.in_flight.reset();
    CHECK(t.batching.usage().pages_in_use == 0);
    (void)t.batching.give_back_cached(1u << 30);
    CHECK(t.memory.taken() == 0);
    saved += mover.saved;
    restored += mover.restored;
    prefetched += mover.prefetched;
  }
  CHECK(preemptions > 0);
  CHECK(saved > 0);
  CHECK(restored > 0);
  CHECK(prefetched > 0);
  CHECK(failures > 0);
}
