// Limits that move, memory that is refused and loans, in random orders: replies stay the same.
#include "tests/unit/schedule/table_top.hpp"

#include <random>

using namespace tropilla;
using testing::expected;
using testing::shape_of;
using testing::submit_random;
using testing::table_client;
using testing::table_top;

namespace {

/// Refuses at random what the only sequence and the loans could do without.
struct moody_table_top : table_top {
  moody_table_top(std::mt19937& r, const run_shape& s, std::size_t pages_of_extent)
      : table_top(
            s, 1000,
            [this](extent_number) -> std::optional<std::string> {
              if (memory.taken() < needed || random() % 3 > 0)
                return std::nullopt;
              return "the test does not want to";
            },
            pages_of_extent),
        random(r), needed(kv_pages_for(s.context)) {}

  std::mt19937& random;
  std::size_t needed; ///< pages
};

} // namespace

TEST_CASE("whatever the limit does and whatever memory is refused, replies are what they are without") {
  std::mt19937 random(5);
  std::size_t waits = 0, preemptions = 0, refusals = 0;
  for (int round = 0; round < 150; ++round) {
    INFO("round " << round);
    const std::size_t context = 64 + 32 * (random() % 3), extent_pages = 1 + random() % 3;
    const auto shape = shape_of(context, 4 + random() % 60, 1 + random() % 4, context + 32 * (random() % 12));
    moody_table_top t(random, shape, extent_pages);
    std::vector<table_client> clients;
    std::optional<page_loan> loan;
    for (request_id next = 1; next <= 12 || !t.batching.idle();) {
      if (next <= 12 && random() % 3 == 0)
        clients.push_back(submit_random(t, random, next++));
      if (random() % 6 == 0)
        t.batching.set_page_limit(random() % (t.pages.size() + 1), random() % 2 == 0);
      if (random() % 20 == 0)
        (void)t.batching.give_back_cached(random() % 1000);
      if (random() % 10 == 0 && !loan) {
        t.in_flight.reset(); // it may hold memory that the loan could have
        try {
          t.needed += 1;
          loan = t.lend_empty(1000, 1 + random() % kv_page_tokens);
        } catch (const error& why) {
          CHECK((why.code() == errc::busy || why.code() == errc::over_budget));
          refusals += why.code() == errc::over_budget;
          t.needed -= 1;
        }
      } else if (random() % 4 == 0 && loan) {
        CHECK(t.batching.give_back(1000));
        loan.reset();
        t.needed -= 1;
      }
      const auto demand = t.batching.page_demand(random() % 50, random() % 50);
      CHECK(std::ranges::is_sorted(demand));
      if (t.step() > 0)
        t.draw();
      else if (t.batching.wants_pages()) {
        ++waits;
        if (random() % 2 == 0)
          t.batching.set_page_limit(t.pages.size());
      }
    }
    preemptions += t.batching.usage().preemptions;
    for (const auto& c : clients) {
      INFO((c.sink->failure ? c.sink->failure->what() : "no failure"));
      REQUIRE(c.sink->end);
      const auto fits = context + 1 - c.prompt.size();
      CHECK(c.sink->ids() == expected(c.prompt, std::min(c.options.max_tokens, fits), c.options.sampling.seed));
    }
    if (loan)
      CHECK(t.batching.give_back(1000));
    loan.reset();
    t.in_flight.reset();
    CHECK(t.batching.usage().pages_in_use == 0);
    (void)t.batching.give_back_cached(1u << 30);
    CHECK(t.memory.taken() == 0);
  }
  CHECK(waits > 0);
  CHECK(preemptions > 0);
  CHECK(refusals > 0);
}
