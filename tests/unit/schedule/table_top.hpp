/// A batcher that is driven by hand: no device, no actors, and a clock that a test moves.
#pragma once

#include "memory/arbiter.hpp"
#include "src/schedule/batcher.hpp"
#include "tests/support/tiny_model.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace tropilla::testing {

struct recording_sink final : reply_sink {
  client_wants token(piece p) override {
    pieces.push_back(std::move(p));
    return pieces.size() < most ? client_wants::more : client_wants::room_for_pieces;
  }
  void logits(std::size_t first, std::size_t rows, std::span<const float>) override {
    scored.emplace_back(first, rows);
  }
  void finished(const generation_statistics& s) override {
    CHECK_FALSE(ended());
    end = s;
  }
  void failed(const error& why) override {
    CHECK_FALSE(ended());
    failure = why;
  }
  [[nodiscard]] bool ended() const { return end || failure; }
  [[nodiscard]] std::vector<token_id> ids(std::size_t output = 0) const {
    std::vector<token_id> out;
    for (const auto& p : pieces)
      if (p.output == output && p.id >= 0)
        out.push_back(p.id);
    return out;
  }

  std::vector<piece> pieces;
  std::vector<std::pair<std::size_t, std::size_t>> scored;
  std::optional<generation_statistics> end;
  std::optional<error> failure;
  std::size_t most = 1000000;
};

/// What the model of these tests says after some tokens: any function of all of them will do.
inline token_id model_says(std::span<const token_id> tokens, std::uint64_t seed) {
  std::uint64_t h = seed + 17;
  for (const auto t : tokens)
    h = (h ^ static_cast<std::uint64_t>(t)) * 0x9E3779B97F4A7C15ULL + 1;
  return static_cast<token_id>(65 + (h >> 33) % 26);
}

inline run_shape shape_of(std::size_t context, std::size_t max_batch_tokens, std::size_t sequences,
                          std::size_t kv_tokens) {
  run_shape s;
  s.context = context;
  s.max_batch_tokens = max_batch_tokens;
  s.logit_rows = std::max<std::size_t>(sequences, 4);
  s.sequences = sequences;
  s.kv_tokens = kv_tokens;
  return s;
}

/// A device that has memory for so many KV pages, and nothing behind its addresses.
struct page_memory {
  static constexpr std::size_t page_bytes = 64;

  explicit page_memory(std::size_t pages) : most(pages * page_bytes) {
    arbiter->add_device("host:0", std::bit_cast<std::byte*>(std::uintptr_t{1} << 20), most, most, page_bytes);
  }
  [[nodiscard]] lease take(std::size_t pages) {
    return std::get<lease>(arbiter->try_acquire({"host:0", pages * page_bytes, purpose::kv}));
  }
  /// Pages whose memory has a holder.
  [[nodiscard]] std::size_t taken() const { return arbiter->usage("host:0").in_use / page_bytes; }

  std::size_t most;
  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();
};

/// Why an extent has no memory; empty: it has.
using extent_refusal = std::function<std::optional<std::string>(extent_number)>;

/// A batcher with a device made of vectors, and a clock that it moves by hand.
struct table_top {
  explicit table_top(const run_shape& s = shape_of(64, 16, 1, 64), std::size_t max_waiting = 1000,
                     extent_refusal refuses = {}, std::size_t pages_of_extent = 1,
                     std::shared_ptr<const page_index> store = {})
      : shape(s), extent_pages(pages_of_extent), refuse(std::move(refuses)), memory(s.kv_tokens / kv_page_tokens),
        batching(tok, shape, max_waiting, {}, {extent_pages, {page_memory::page_bytes}, std::move(store)}),
        pages(s.kv_tokens / kv_page_tokens) {}

  std::shared_ptr<recording_sink> submit(request_id id, std::vector<token_id> prompt, generation_options options = {},
                                         bool score = false) {
    sequence_request r;
    r.id = id;
    r.prompt = std::move(prompt);
    r.options = std::move(options);
    r.score = score;
    auto sink = std::make_shared<recording_sink>();
    r.sink = sink;
    r.submitted = now;
    batching.submit(std::move(r));
    return sink;
  }
  std::shared_ptr<recording_sink> submit(request_id id, std::size_t prompt, generation_options options = {},
                                         bool score = false) {
    return submit(id, some_prompt(prompt), std::move(options), score);
  }
  static std::vector<token_id> some_prompt(std::size_t n, token_id first = 1) {
    std::vector<token_id> out;
    for (std::size_t i = 0; i < n; ++i)
      out.push_back(first + static_cast<token_id>(i % 200));
    return out;
  }

  /// Computes a step as a device does: copies, then tokens, then what the model says behind those that want logits.
  void compute(const tropilla::step& one) {
    REQUIRE(one.table);
    for (const auto page : one.pages)
      REQUIRE(one.table->starts.front().at(page) != nullptr);
    for (const auto& c : one.copies) {
      REQUIRE(one.table->starts.front().at(c.from) != nullptr);
      REQUIRE(one.table->starts.front().at(c.to) != nullptr);
      pages[c.to] = pages[c.from];
    }
    said.clear();
    auto page = one.pages.begin();
    for (const auto& rows : one.sequences) {
      const std::span mine(page, kv_pages_for(rows.position + rows.rows));
      page += static_cast<std::ptrdiff_t>(mine.size());
      for (std::size_t r = 0; r < rows.rows; ++r) {
        const std::size_t at = rows.position + r;
        pages[mine[at / kv_page_tokens]][at % kv_page_tokens] = one.ids[rows.first_row + r];
        if (std::ranges::find(one.logit_rows, rows.first_row + r) == one.logit_rows.end())
          continue;
        std::vector<token_id> seen;
        for (std::size_t t = 0; t <= at; ++t)
          seen.push_back(pages[mine[t / kv_page_tokens]][t % kv_page_tokens]);
        said.push_back(std::move(seen));
      }
    }
    CHECK(page == one.pages.end());
    CHECK(one.ids.size() <= shape.max_batch_tokens);
    CHECK(one.logit_rows.size() <= shape.logit_rows);
  }

  void answer(extent_number e) {
    const auto first = e * extent_pages;
    if (auto why = refuse ? refuse(e) : std::nullopt)
      batching.extent_refused(e, std::move(*why));
    else
      batching.extent_granted(e, {memory.take(std::min(extent_pages, pages.size() - first))});
  }
  /// Answers what is wanted. False: nothing was.
  bool answer_all() {
    const auto wanted = batching.take_wanted_extents();
    for (const auto e : wanted) {
      CHECK(batching.next_step(now) == nullptr); // nothing is computed before the last answer
      CHECK(batching.take_wanted_extents().empty());
      answer(e);
    }
    return !wanted.empty();
  }
  /// The next step, after all answers that it waits for.
  std::shared_ptr<const tropilla::step> next_step() {
    for (int rounds = 0; rounds < 1000; ++rounds) {
      auto next = batching.next_step(now);
      if (next || !answer_all())
        return next;
    }
    FAIL("the batcher asks and never goes on");
    return nullptr;
  }
  page_loan lend_empty(request_id borrower, std::size_t count) {
    while (batching.wait_for_loan(count))
      REQUIRE(answer_all());
    return batching.lend_empty(borrower, count);
  }

  /// One step: its tokens, 0 when there is none. The clock moves by a second. Tokens are still to be drawn.
  std::size_t step() {
    in_flight.reset(); // it may hold the memory of extents that went back
    in_flight = next_step();
    if (!in_flight)
      return 0;
    compute(*in_flight);
    now += std::chrono::seconds(1);
    draws = batching.step_done({}, {0.75, 0.5}, now);
    return in_flight->ids.size();
  }
  void draw(token_id token) { batching.drawn(std::vector<drawn_token>(draws.size(), {token, {}}), now); }
  /// What the model says.
  void draw() {
    if (draws.empty())
      return;
    std::vector<drawn_token> tokens;
    for (const auto& d : draws)
      tokens.push_back({model_says(said.at(d.row), d.of->sampling.seed), {}});
    batching.drawn(tokens, now);
  }
  /// Until nothing is left to do.
  void run() {
    while (step() > 0)
      draw();
  }

  gguf_file file = gguf_file::open(testing::tiny_model());
  tokenizer tok{file};
  run_shape shape;
  std::size_t extent_pages;
  extent_refusal refuse;
  page_memory memory;
  batcher batching;
  std::vector<std::array<token_id, kv_page_tokens>> pages;
  batcher::clock::time_point now{};
  std::shared_ptr<const tropilla::step> in_flight;
  std::vector<token_draw> draws;
  std::vector<std::vector<token_id>> said; ///< by row of logits, the tokens that it follows from
};

inline generation_options tokens(std::size_t n) {
  generation_options o;
  o.max_tokens = n;
  o.ignore_eos = true;
  return o;
}

struct table_client {
  std::vector<token_id> prompt;
  generation_options options;
  std::shared_ptr<recording_sink> sink;
};

/// Submits a request of any length that fits, for one output or a few. `begin`: its prompt begins with it.
inline table_client submit_random(table_top& t, std::mt19937& random, request_id id, std::vector<token_id> begin = {}) {
  table_client c{std::move(begin), {}, {}};
  for (std::size_t n = 1 + random() % (t.shape.context - 1); c.prompt.size() < n;)
    c.prompt.push_back(static_cast<token_id>(c.prompt.size() < 40 ? 7 : random() % 3));
  c.options = tokens(1 + random() % 60);
  c.options.outputs = 1 + (random() % 4 == 0) * (random() % 3);
  c.options.sampling.seed = random();
  c.sink = t.submit(id, c.prompt, c.options);
  return c;
}

/// What a reply is, whatever else happens.
inline std::vector<token_id> expected(std::vector<token_id> prompt, std::size_t n, std::uint64_t seed = 0) {
  std::vector<token_id> out;
  for (; n > 0; --n) {
    out.push_back(model_says(prompt, seed));
    prompt.push_back(out.back());
  }
  return out;
}

} // namespace tropilla::testing
