// Pages are lent to clients that save or restore a sequence.
#include "src/schedule/batcher.hpp"

#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>
#include <numeric>

using namespace tropilla;

namespace {

struct quiet_sink final : reply_sink {
  client_wants token(piece) override { return client_wants::more; }
  void logits(std::size_t, std::size_t, std::span<const float>) override {}
  void finished(const generation_statistics& s) override { end = s; }
  void failed(const error&) override { ended_badly = true; }
  std::optional<generation_statistics> end;
  bool ended_badly = false;
};

std::vector<token_id> numbers(std::size_t n, token_id first = 1) {
  std::vector<token_id> out(n);
  std::iota(out.begin(), out.end(), first);
  return out;
}

/// A batcher of 8 pages; its steps are computed by doing nothing.
struct table_top {
  table_top() {
    shape.context = 128;
    shape.max_batch_tokens = 128;
    shape.logit_rows = 4;
    shape.sequences = 4;
    shape.kv_tokens = 256;
    batching.emplace(tok, shape, 100);
  }
  std::shared_ptr<quiet_sink> submit(request_id id, std::vector<token_id> prompt, std::size_t reply = 1) {
    sequence_request r;
    r.id = id;
    r.prompt = std::move(prompt);
    r.options.max_tokens = reply;
    r.options.ignore_eos = true;
    auto sink = std::make_shared<quiet_sink>();
    r.sink = sink;
    r.submitted = now;
    batching->submit(std::move(r));
    return sink;
  }
  bool answer() {
    const auto wanted = batching->take_wanted_extents();
    for (const auto e : wanted)
      batching->extent_granted(e, {});
    return !wanted.empty();
  }
  std::shared_ptr<const tropilla::step> next_step() {
    auto next = batching->next_step(now);
    return next || !answer() ? next : next_step();
  }
  page_loan lend_empty(request_id borrower, std::size_t tokens) {
    while (batching->wait_for_loan(tokens))
      REQUIRE(answer());
    return batching->lend_empty(borrower, tokens);
  }
  bool step() {
    if (!next_step())
      return false;
    const auto& jobs = batching->step_done({}, {}, now);
    const std::vector<drawn_token> drawn(jobs.size(), drawn_token{65, {}});
    if (!jobs.empty())
      batching->drawn(drawn, now);
    return true;
  }
  void run() {
    while (step()) {
    }
  }

  gguf_file file = gguf_file::open(testing::tiny_model());
  tokenizer tok{file};
  run_shape shape;
  std::optional<batcher> batching;
  batcher::clock::time_point now{};
};

} // namespace

TEST_CASE("a path that is looked up shares partial pages without a copy, and is given back whole") {
  kv_pages pages(4, 4);
  for (const auto e : pages.choose_extents(4))
    pages.extent_granted(e);
  std::optional<page_copy> copy;
  auto writer = pages.find(numbers(50), copy);
  REQUIRE((pages.extend(writer) && pages.extend(writer)));
  pages.append(writer, numbers(50));
  auto like = numbers(45);
  like.push_back(999);
  auto reader = pages.look_up(like);
  CHECK(reader.tokens == 45);
  CHECK(reader.pages == writer.pages);
  CHECK(pages.in_use() == 2);
  pages.append(writer, numbers(14, 51)); // its writer goes on
  pages.release(writer);
  CHECK(pages.in_use() == 2);
  pages.shorten(reader);
  CHECK(reader.tokens == 32);
  pages.release(reader);
  CHECK(pages.in_use() == 0);
  CHECK(pages.matching(numbers(64)).tokens == 64);
  CHECK(pages.look_up(numbers(5, 200)).pages.empty());
}

TEST_CASE("what is lent stays, however much others want") {
  table_top t;
  t.submit(1, numbers(70));
  t.run();
  const auto loan = t.batching->lend(100, numbers(90));
  CHECK(loan.tokens == 70);
  REQUIRE(loan.pages.size() == 3);
  CHECK(t.batching->lend(100, {}).pages == loan.pages); // sent twice
  for (request_id id = 2; id < 6; ++id) {
    const auto sink = t.submit(id, numbers(100, static_cast<token_id>(id)), 20);
    t.run();
    CHECK(sink->end);
  }
  CHECK(t.batching->usage().pages_in_use == 3);
  CHECK(t.batching->give_back(100));
  CHECK(t.batching->usage().pages_in_use == 0);
  CHECK_FALSE(t.batching->give_back(100));
  CHECK(t.batching->lend(101, numbers(70)).tokens == 70);
}

TEST_CASE("a page that a step has yet to copy is not lent") {
  table_top t;
  t.submit(1, numbers(40));
  t.run();
  auto one = numbers(36), two = numbers(36);
  one.push_back(300);
  two.push_back(301);
  t.submit(2, one, 5);
  t.submit(3, two, 5);
  const auto step = t.next_step();
  REQUIRE(step);
  REQUIRE_FALSE(step->copies.empty());
  const auto loan = t.batching->lend(100, numbers(40));
  for (const auto& c : step->copies)
    CHECK(std::ranges::find(loan.pages, c.to) == loan.pages.end());
  CHECK(loan.tokens >= 32);
}

TEST_CASE("filled pages are found by sequences that begin alike") {
  table_top t;
  const auto loan = t.lend_empty(100, 70);
  CHECK(loan.pages.size() == 3);
  CHECK(t.lend_empty(100, 70).pages == loan.pages);
  CHECK(t.batching->take_filled(100, numbers(70)));
  CHECK(t.batching->usage().pages_in_use == 0);
  const auto sink = t.submit(1, numbers(90));
  const auto step = t.next_step();
  REQUIRE(step);
  CHECK(step->ids.size() == 20);
  CHECK(std::vector(step->pages.begin(), step->pages.end()) == loan.pages);
}

TEST_CASE("pages that are restored where they are already become one with them") {
  table_top t;
  t.submit(1, numbers(70));
  t.run();
  (void)t.lend_empty(100, 70);
  CHECK(t.batching->take_filled(100, numbers(70)));
  CHECK(t.batching->lend(101, numbers(70)).tokens == 70);
  CHECK(t.batching->give_back(101));
  CHECK(t.batching->usage().pages_in_use == 0);
}

TEST_CASE("a loan that is too large is refused, and one that is not filled leaves nothing to be found") {
  table_top t;
  CHECK_THROWS_WITH(t.lend_empty(100, 129), Catch::Contains("context of 128"));
  (void)t.lend_empty(100, 128);
  (void)t.lend_empty(101, 96);
  CHECK_THROWS_WITH(t.lend_empty(102, 64), Catch::Contains("7 of 8 are in use"));
  CHECK_FALSE(t.batching->take_filled(101, numbers(3)));
  CHECK(t.batching->give_back(100));
  CHECK(t.batching->usage().pages_in_use == 0);
  CHECK(t.batching->usage().pages_cached == 0);
  CHECK_FALSE(t.batching->take_filled(100, numbers(128)));
}

TEST_CASE("requests wait while everything is lent, and go on afterwards") {
  table_top t;
  (void)t.lend_empty(100, 128);
  (void)t.lend_empty(101, 128);
  const auto sink = t.submit(1, numbers(40), 3);
  t.run();
  CHECK_FALSE(sink->end);
  CHECK(t.batching->give_back(100));
  t.run();
  CHECK(sink->end);
}

TEST_CASE("when everything fails, loans are void, and nobody gets their pages before they come back") {
  table_top t;
  t.submit(1, numbers(40));
  t.run();
  const auto read = t.batching->lend(100, numbers(40)), read_too = t.batching->lend(102, numbers(40));
  const auto filled = t.lend_empty(101, 64);
  t.batching->fail_all(error(errc::device_failed, "a test fails everything"));
  CHECK(t.batching->usage().pages_in_use == 4);
  for (request_id id = 2; id < 6; ++id) {
    const auto sink = t.submit(id, numbers(60, static_cast<token_id>(id)), 20);
    while (const auto step = t.next_step()) {
      for (const auto page : step->pages)
        for (const auto* loan : {&read, &filled})
          CHECK(std::ranges::find(loan->pages, page) == loan->pages.end());
      const auto& jobs = t.batching->step_done({}, {}, t.now);
      t.batching->drawn(std::vector<drawn_token>(jobs.size(), drawn_token{65, {}}), t.now);
    }
    CHECK(sink->end);
  }
  CHECK_FALSE(t.batching->give_back(100));
  CHECK_FALSE(t.batching->take_filled(101, numbers(64)));
  CHECK_FALSE(t.batching->give_back(102));
  CHECK(t.batching->usage().pages_in_use == 0);
  CHECK(t.batching->lend(103, numbers(64)).tokens == 0);
  CHECK(t.batching->give_back(103));
  CHECK_NOTHROW(t.lend_empty(104, 128));
}
