// Many requests at once over the whole cast, with a tiny model: each gets what it would have got alone.
#include "tests/support/tiny_runtime.hpp"
#include "tropilla/tropilla.hpp"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <future>
#include <limits>
#include <mutex>
#include <random>
#include <thread>

using namespace tropilla;
using testing::ids_of;

namespace {

struct wanted {
  std::vector<token_id> prompt;
  generation_options options;
};

std::vector<wanted> random_requests(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<wanted> out(count);
  for (auto& w : out) {
    for (std::size_t n = 1 + random() % 120; w.prompt.size() < n;)
      w.prompt.push_back(static_cast<token_id>(w.prompt.size() < 50 ? 3 + w.prompt.size() : 1 + random() % 900));
    w.options.max_tokens = 1 + random() % 40;
    w.options.ignore_eos = true;
    w.options.sampling.temperature = random() % 2 ? 0 : 0.8;
    w.options.sampling.seed = random();
    if (random() % 4 == 0)
      w.options.sampling.repetition_penalty = 1.2;
  }
  return out;
}

std::vector<std::vector<token_id>> alone(const runtime_config& config, const std::vector<wanted>& requests) {
  auto one = config;
  one.sequences = 1;
  one.kv_tokens = 0;
  one.max_batch_tokens = 0;
  runtime rt(one);
  std::vector<std::vector<token_id>> out;
  for (const auto& w : requests)
    out.push_back(ids_of(rt.generate(w.prompt, w.options)));
  return out;
}

/// What came of replies that go to callbacks.
class gathering {
public:
  explicit gathering(std::size_t count) : ids(count), finishes(count), failures(count), left_(count) {}

  reply_callbacks callbacks(std::size_t i) {
    return {[this, i](const piece& p) {
              if (p.id >= 0)
                ids[i].push_back(p.id);
              return true;
            },
            [this, i](const generation_statistics& s) {
              finishes[i] = s.finish;
              one_less();
            },
            [this, i](const error& why) {
              failures[i] = why;
              one_less();
            }};
  }
  [[nodiscard]] bool wait_for_all(std::chrono::seconds most = std::chrono::seconds(300)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, [this] { return left_ == 0; });
  }

  std::vector<std::vector<token_id>> ids;
  std::vector<std::optional<finish_reason>> finishes;
  std::vector<std::optional<error>> failures;

private:
  void one_less() {
    const std::lock_guard lock(mutex_);
    --left_;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t left_;
};

generation_options long_reply() {
  generation_options o;
  o.max_tokens = 200;
  o.ignore_eos = true;
  return o;
}

} // namespace

TEST_CASE("a reply is the same alone and among 64, in any order, in any chunks, with few pages, on any threads") {
  const auto requests = random_requests(64, 21);
  const auto expected = alone(testing::tiny_config(), requests);
  std::mt19937 random(5);
  for (int round = 0; round < 4; ++round) {
    auto config = testing::tiny_config(1 + static_cast<std::size_t>(round) % 3);
    config.sequences = std::vector<std::size_t>{16, 5, 32, 9}[static_cast<std::size_t>(round)];
    config.kv_tokens = std::vector<std::size_t>{0, 256, 2048, 512}[static_cast<std::size_t>(round)];
    config.max_batch_tokens = std::vector<std::size_t>{0, 40, 64, 33}[static_cast<std::size_t>(round)];
    INFO("round " << round);
    runtime rt(config);
    gathering got(requests.size());
    std::vector<std::size_t> order(requests.size());
    for (std::size_t i = 0; i < order.size(); ++i)
      order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (const auto i : order) {
      (void)rt.submit(requests[i].prompt, requests[i].options, got.callbacks(i));
      if (random() % 8 == 0)
        std::this_thread::yield();
    }
    REQUIRE(got.wait_for_all());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      CHECK_FALSE(got.failures[i]);
      CHECK(got.ids[i] == expected[i]);
    }
    const auto load = rt.load();
    CHECK(load.active == 0);
    CHECK(load.waiting == 0);
    CHECK(load.pages_in_use == 0);
    if (round == 1)
      CHECK(load.preemptions > 0);
  }
}

TEST_CASE("weights that stream serve every sequence of a batch in one pass") {
  auto config = testing::tiny_config();
  const auto requests = random_requests(12, 22);
  const auto expected = alone(config, requests);
  config.sequences = 12;
  config.kv_tokens = 4096;
  config.budget_bytes = 1;
  config.budget_bytes = runtime::plan(config).total_bytes;
  runtime rt(config);
  REQUIRE(rt.plan().divisions.back().streamed_bytes > 0);
  gathering got(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i)
    (void)rt.submit(requests[i].prompt, requests[i].options, got.callbacks(i));
  REQUIRE(got.wait_for_all());
  CHECK(got.ids == expected);
  CHECK(rt.memory().front().peak_bytes <= config.budget_bytes);
}

TEST_CASE("outputs of one request are those that their seeds give, with log-probabilities where asked for") {
  runtime rt(testing::tiny_config());
  const std::vector<token_id> prompt{5, 9, 77, 31, 8, 100};
  generation_options o;
  o.max_tokens = 12;
  o.ignore_eos = true;
  o.sampling.temperature = 0.9;
  o.sampling.seed = 4;
  const auto single = ids_of(rt.generate(prompt, o));
  o.outputs = 4;
  o.logprobs = 3;
  std::vector<std::vector<token_id>> got(4);
  std::size_t ends = 0;
  auto g = rt.generate(prompt, o);
  for (const auto& p : g) {
    if (p.id >= 0) {
      got.at(p.output).push_back(p.id);
      REQUIRE(p.logprobs.size() == 4);
      CHECK(p.logprobs.front().id == p.id);
      CHECK(p.logprobs[1].logprob >= p.logprobs.front().logprob);
    }
    ends += p.finish == finish_reason::length;
  }
  CHECK(ends == 4);
  CHECK(got[0] == single);
  for (std::size_t i = 1; i < 4; ++i) {
    CHECK(got[i].size() == 12);
    CHECK(got[i] != single);
  }
  CHECK(g.statistics().generated_tokens == 48);
}

TEST_CASE("a client that does not read holds up nobody, and its reply ends") {
  auto config = testing::tiny_config();
  config.unread_pieces = 20;
  runtime rt(config);
  const auto o = long_reply();
  auto slow = rt.generate(std::vector<token_id>{1, 2, 3}, o);
  CHECK(ids_of(rt.generate(std::vector<token_id>{4, 5, 6},
                           [&] {
                             auto few = o;
                             few.max_tokens = 15;
                             return few;
                           }()))
            .size() == 15);
  while (rt.load().active > 0) // it ends without being read
    std::this_thread::yield();
  std::size_t pieces = 0;
  try {
    while (slow.next())
      ++pieces;
    FAIL("it came to its end");
  } catch (const error& e) {
    CHECK(e.code() == errc::cancelled);
    CHECK_THAT(e.what(), Catch::Contains("slowly"));
  }
  CHECK(pieces == 20);
  CHECK(rt.load().pages_in_use == 0);
}

TEST_CASE("a reply that is cancelled says so, whether a callback, the ticket or the range ends it") {
  runtime rt(testing::tiny_config());
  const auto o = long_reply();
  gathering got(2);
  auto ending = got.callbacks(0);
  ending.on_piece = [&](const piece& p) {
    got.ids[0].push_back(p.id);
    return got.ids[0].size() < 5;
  };
  (void)rt.submit({1, 2, 3}, o, ending);
  const auto ticket = rt.submit({4, 5, 6}, o, got.callbacks(1));
  ticket.cancel();
  auto range = rt.generate(std::vector<token_id>{7, 8, 9}, o);
  REQUIRE(range.next());
  range.cancel();
  while (range.next()) {
  }
  REQUIRE(got.wait_for_all());
  CHECK(got.ids[0].size() == 5);
  CHECK(got.finishes[0] == finish_reason::cancelled);
  CHECK(got.finishes[1] == finish_reason::cancelled);
  CHECK(range.statistics().finish == finish_reason::cancelled);
  CHECK_FALSE((got.failures[0] || got.failures[1]));
  CHECK(rt.load().pages_in_use == 0);
}

TEST_CASE("a callback that throws ends its own reply with what it said, and no other") {
  struct no_exception {};
  runtime rt(testing::tiny_config());
  const auto o = long_reply();
  const auto expected = ids_of(rt.generate(std::vector<token_id>{9, 9}, o));
  gathering got(6);
  const auto submit = [&](std::size_t i, const std::function<void(reply_callbacks&)>& change) {
    auto callbacks = got.callbacks(i);
    change(callbacks);
    (void)rt.submit({9, 9}, o, std::move(callbacks));
  };
  std::size_t calls = 0;
  submit(0, [&](auto& c) {
    c.on_piece = [&](const piece&) -> bool {
      ++calls;
      throw std::runtime_error("the disk is full");
    };
  });
  submit(1, [](auto& c) { c.on_piece = [](const piece&) -> bool { throw no_exception{}; }; });
  submit(2, [](auto& c) {
    c.on_piece = [](const piece& p) {
      if (p.finish) // the very last one
        throw std::runtime_error("late");
      return true;
    };
  });
  submit(3, [](auto&) {});
  const auto throwing = [](auto& callback) {
    callback = [inner = std::move(callback)](const auto& argument) {
      inner(argument);
      throw no_exception{};
    };
  };
  submit(4, [&](auto& c) { throwing(c.on_finished); });
  submit(5, [&](auto& c) {
    c.on_piece = [](const piece&) -> bool { throw std::runtime_error("twice"); };
    throwing(c.on_failed);
  });
  REQUIRE(got.wait_for_all());
  CHECK(calls == 1);
  for (const std::size_t i : {0, 1, 2, 5}) {
    INFO("reply " << i);
    REQUIRE(got.failures[i]);
    CHECK(got.failures[i]->code() == errc::client_failed);
    CHECK_FALSE(got.finishes[i]);
  }
  CHECK_THAT(got.failures[0]->what(), Catch::Equals("the client's on_piece threw: the disk is full"));
  CHECK_THAT(got.failures[1]->what(), Catch::Contains("no std::exception"));
  for (const std::size_t i : {3, 4}) {
    CHECK(got.ids[i] == expected);
    CHECK(got.finishes[i] == finish_reason::length);
    CHECK_FALSE(got.failures[i]);
  }
  CHECK(ids_of(rt.generate(std::vector<token_id>{9, 9}, o)) == expected);
  CHECK(rt.load().restarts == 0); // nobody of the cast noticed
  CHECK(rt.load().pages_in_use == 0);
}

TEST_CASE("a client that waits in its callback holds up no other reply") {
  runtime rt(testing::tiny_config());
  const auto o = long_reply();
  const auto expected = ids_of(rt.generate(std::vector<token_id>{9, 9}, o));
  constexpr std::size_t waiters = 5, all = 8;
  gathering slow(waiters), quick(all - waiters);
  std::promise<void> go_on;
  const auto until = go_on.get_future().share();
  for (std::size_t i = 0; i < all; ++i) {
    auto callbacks = i < waiters ? slow.callbacks(i) : quick.callbacks(i - waiters);
    if (i < waiters)
      callbacks.on_piece = [until, next = std::move(callbacks.on_piece)](piece p) {
        until.wait();
        return next(std::move(p));
      };
    (void)rt.submit({9, 9}, o, std::move(callbacks));
  }
  CHECK(quick.wait_for_all());
  for (std::size_t i = 0; i < all - waiters; ++i)
    CHECK(quick.ids[i] == expected);
  CHECK(ids_of(rt.generate(std::vector<token_id>{9, 9}, o)) == expected);
  for (const auto& finish : slow.finishes)
    CHECK_FALSE(finish);
  go_on.set_value();
  CHECK(slow.wait_for_all());
  for (const auto& ids : slow.ids)
    CHECK(ids == expected);
}

TEST_CASE("a client that is called by the runtime's own thread hears the same") {
  runtime rt(testing::tiny_config());
  const auto o = long_reply();
  gathering got(2);
  for (const std::size_t i : {0, 1}) {
    auto callbacks = got.callbacks(i);
    callbacks.quick = i == 1;
    (void)rt.submit({9, 9}, o, std::move(callbacks));
  }
  REQUIRE(got.wait_for_all());
  CHECK(got.ids[0] == got.ids[1]);
  CHECK(got.finishes[0] == got.finishes[1]);
}

TEST_CASE("a client that has enough hears of nothing more, however much is ready") {
  runtime rt(testing::tiny_config());
  gathering got(1);
  std::promise<void> go_on;
  auto callbacks = got.callbacks(0);
  std::size_t calls = 0;
  callbacks.on_piece = [&, until = go_on.get_future().share()](const piece&) {
    ++calls;
    until.wait();
    return false;
  };
  (void)rt.submit({9, 9}, long_reply(), std::move(callbacks));
  (void)ids_of(
      rt.generate(std::vector<token_id>{9, 9}, long_reply())); // meanwhile the other one is computed to its end
  go_on.set_value();
  REQUIRE(got.wait_for_all());
  CHECK(calls == 1);
  CHECK(got.finishes[0] == finish_reason::cancelled);
}

TEST_CASE("progress and notices that throw don't keep a runtime from opening") {
  auto config = testing::tiny_config();
  std::atomic<std::size_t> calls = 0;
  config.on_progress = [&](const load_progress&) {
    ++calls;
    throw std::runtime_error("no screen");
  };
  config.on_notice = [](std::string_view) { throw std::runtime_error("no screen"); };
  config.packed_cache = "/proc/no-such-folder"; // which gives a notice
  runtime rt(config);
  rt.wait_until_loaded();
  CHECK(calls > 0);
  CHECK(ids_of(rt.generate(std::vector<token_id>{1, 2}, long_reply())).size() == 200);
}

TEST_CASE("a reply that takes longer than it may fails and says so, and the next one comes") {
  runtime rt(testing::tiny_config());
  generation_options o;
  o.max_tokens = std::numeric_limits<std::size_t>::max();
  o.ignore_eos = true;
  o.context_shift = true; // nothing else ends it
  o.timeout_seconds = 0.02;
  gathering got(1);
  (void)rt.submit({1, 2, 3}, o, got.callbacks(0));
  REQUIRE(got.wait_for_all());
  REQUIRE(got.failures[0]);
  CHECK(got.failures[0]->code() == errc::timed_out);
  CHECK_THAT(got.failures[0]->what(), Catch::Contains("0.02 seconds"));
  o.max_tokens = 5;
  o.timeout_seconds = 0;
  CHECK(ids_of(rt.generate(std::vector<token_id>{4, 5, 6}, o)).size() == 5);
}

TEST_CASE("a queue that is full refuses, and impossible requests lease nothing") {
  auto config = testing::tiny_config();
  config.sequences = 1;
  config.queue_length = 3;
  gathering got(1000); // outlives the runtime, which ends what is left of its replies
  runtime rt(config);
  const auto o = long_reply();
  std::size_t accepted = 0;
  auto code = errc{};
  try {
    for (; accepted < 999; ++accepted)
      (void)rt.submit({1, 2, static_cast<token_id>(accepted % 500)}, o, got.callbacks(accepted));
  } catch (const error& e) {
    code = e.code();
  }
  CHECK(code == errc::busy);
  CHECK(accepted >= 3);
  const auto before = rt.load().pages_in_use;
  const auto refused = [&](std::vector<token_id> prompt, const std::function<void(generation_options&)>& change) {
    auto bad = o;
    change(bad);
    CHECK_THROWS_AS(rt.generate(std::move(prompt), bad), error);
  };
  refused({}, [](auto&) {});
  refused({1, 100000}, [](auto&) {});
  refused(std::vector<token_id>(256, 1), [](auto&) {});
  refused({1}, [](auto& x) { x.sampling.temperature = -1; });
  refused({1}, [](auto& x) { x.sampling.top_p = -0.1; });
  refused({1}, [](auto& x) { x.outputs = 0; });
  refused({1}, [](auto& x) { x.max_tokens = 0; });
  refused({1}, [](auto& x) { x.stop = {""}; });
  refused({1}, [](auto& x) { x.stop.assign(1000000, "x"); });
  refused({1}, [](auto& x) { x.sampling.banned = {-5}; });
  CHECK(rt.load().pages_in_use <= before + 8); // only what is active grows
}
