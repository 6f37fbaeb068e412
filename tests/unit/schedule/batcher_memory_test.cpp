// KV pages that there is no memory for: who shares what there is, and who fails.
#include "tests/unit/schedule/table_top.hpp"

#include <random>

using namespace tropilla;
using testing::expected;
using testing::recording_sink;
using testing::shape_of;
using testing::table_top;
using testing::tokens;

namespace {

/// A table top whose device has memory for fewer pages than there are.
struct scarce_table_top : table_top {
  scarce_table_top(const run_shape& s, std::size_t max_pages)
      : table_top(s, 1000,
                  [this](extent_number) -> std::optional<std::string> {
                    if (memory.taken() < most)
                      return std::nullopt;
                    return "the test has no more";
                  }),
        most(max_pages) {}
  std::size_t most;
};

} // namespace

TEST_CASE("a page without memory is not handed out, and pages that were written to are used again") {
  kv_pages pages(4);
  const auto ask = [&](std::size_t count, std::size_t memory_for) {
    for (const auto e : pages.choose_extents(count))
      if (pages.held() < memory_for)
        pages.extent_granted(e);
      else
        pages.extent_refused(e, "the test has no more");
  };
  kv_pages::path a, b;
  CHECK_FALSE(pages.extend(a));
  ask(3, 2);
  CHECK(pages.extend(a));
  CHECK(pages.extend(a));
  CHECK_FALSE(pages.extend(a));
  CHECK(pages.refusal() == "the test has no more");
  CHECK(pages.available() == 0);
  CHECK(pages.in_use() == 2);
  const std::vector<token_id> known(kv_page_tokens, 7);
  pages.append(a, known);
  pages.release(a); // one of them stays to be found
  CHECK(pages.available() == 2);
  CHECK(pages.cached() == 1);
  CHECK(pages.extend(b));
  CHECK(pages.extend(b)); // in the place of the one to be found
  CHECK_FALSE(pages.extend(b));
  CHECK(pages.choose_extents(1).empty()); // nobody was told that there is memory again
  pages.try_again();
  CHECK(pages.available() == 2);
  ask(2, 3);
  CHECK(pages.extend(b));
  CHECK_FALSE(pages.extend(b));
}

TEST_CASE("pages that are occupied after everything was forgotten are not handed out") {
  kv_pages pages(4, 2);
  for (const auto e : pages.choose_extents(4))
    pages.extent_granted(e);
  kv_pages::path all;
  while (pages.extend(all)) {
  }
  pages.clear();
  CHECK(pages.held() == 2);
  CHECK(pages.in_use() == 0);
  pages.occupy({{0, 2}, 0});
  kv_pages::path p;
  CHECK(pages.extend(p));
  CHECK(pages.extend(p));
  CHECK_FALSE(pages.extend(p));
  CHECK(p.pages == std::vector<page_number>{1, 3});
}

TEST_CASE("a reply that needs a page without memory fails with the reason, and others go on") {
  scarce_table_top t(shape_of(128, 16, 1, 256), 1);
  const auto long_reply = t.submit(1, 20, tokens(60));
  const auto long_prompt = t.submit(2, 90, tokens(1));
  const auto scored = t.submit(3, 90, {}, true);
  const auto fits = t.submit(4, 20, tokens(8));
  t.run();
  for (const auto& sink : {long_reply, long_prompt}) {
    REQUIRE(sink->failure);
    CHECK(sink->failure->code() == errc::over_budget);
    CHECK_THAT(sink->failure->what(), Catch::Contains("no memory for another KV page: the test has no more"));
  }
  CHECK(long_reply->ids().size() == 13); // what fits the page came
  for (std::size_t row = 0; row < 90 && !scored->failure; ++row) {
    t.batching.logits_consumed(3, t.now);
    t.run();
  }
  REQUIRE(scored->failure);
  CHECK(scored->scored.size() == kv_page_tokens / t.shape.logit_rows);
  REQUIRE(fits->end);
  CHECK(fits->ids() == expected(table_top::some_prompt(20), 8));
  CHECK(t.batching.idle());
  CHECK(t.batching.usage().pages_in_use == 0);
}

TEST_CASE("sequences share the pages that there is memory for, and their text is the same") {
  const std::size_t pages = GENERATE(3, 4, 5, 8);
  scarce_table_top t(shape_of(96, 24, 4, 384), pages);
  std::vector<std::shared_ptr<recording_sink>> sinks;
  for (request_id id = 1; id <= 6; ++id)
    sinks.push_back(t.submit(id, table_top::some_prompt(30, static_cast<token_id>(id)), tokens(50)));
  t.run();
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    INFO("request " << i + 1);
    REQUIRE(sinks[i]->end);
    CHECK(sinks[i]->ids() == expected(table_top::some_prompt(30, static_cast<token_id>(i + 1)), 50));
  }
  CHECK(t.batching.idle());
}

TEST_CASE("memory that comes back is asked for by the next request") {
  scarce_table_top t(shape_of(128, 16, 2, 256), 1);
  const auto before = t.submit(1, 20, tokens(40));
  t.run();
  CHECK(before->failure);
  t.most = 8;
  const auto after = t.submit(2, 20, tokens(40));
  t.run();
  CHECK(after->ids() == expected(table_top::some_prompt(20), 40));
}

TEST_CASE("whatever the memory is, every request ends, and right") {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const auto shape = shape_of(96, 16 + random() % 32, 1 + random() % 4, 96 * (1 + random() % 4));
    scarce_table_top t(shape, 1 + random() % 6);
    INFO("round " << round << ", memory for " << t.most << " pages");
    std::vector<std::pair<std::vector<token_id>, std::shared_ptr<recording_sink>>> all;
    for (request_id id = 1; id <= 8; ++id) {
      const auto prompt = table_top::some_prompt(1 + random() % 60, static_cast<token_id>(1 + random() % 3));
      all.emplace_back(prompt, t.submit(id, prompt, tokens(1 + random() % 30)));
      for (std::size_t n = random() % 4; n > 0 && t.step() > 0; --n)
        t.draw();
    }
    t.most += random() % 2;
    t.run();
    for (const auto& [prompt, sink] : all) {
      REQUIRE(sink->ended());
      const auto ids = sink->ids();
      CHECK(ids == expected(prompt, ids.size()));
      if (sink->failure)
        CHECK(kv_pages_for(prompt.size() + ids.size() + 1) > t.most - 1);
    }
    CHECK(t.batching.idle());
  }
}

TEST_CASE("a loan of pages without memory is refused with the reason") {
  scarce_table_top t(shape_of(128, 16, 1, 256), 2);
  CHECK_THROWS_WITH(t.lend_empty(1, 96), Catch::Contains("no memory") && Catch::Contains("the test has no more"));
  CHECK(t.batching.usage().pages_in_use == 0);
  CHECK(t.lend_empty(1, 64).pages.size() == 2);
}
