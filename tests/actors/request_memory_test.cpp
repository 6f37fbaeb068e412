// What requests hold is planned, leased, and refused with the numbers.
#include "tropilla/tropilla.hpp"

#include "tests/support/tiny_runtime.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

using namespace tropilla;
using Catch::Contains;

namespace {

purpose_report requests_of(const runtime& rt) {
  const auto purposes = rt.memory().front().purposes;
  const auto found = std::ranges::find(purposes, "requests", &purpose_report::purpose);
  REQUIRE(found != purposes.end());
  return *found;
}

std::size_t planned_for_requests(const plan_report& plan) {
  std::size_t bytes = 0;
  for (const auto& line : plan.lines)
    bytes += line.purpose == "requests" ? line.bytes : 0;
  return bytes;
}

std::vector<token_id> prompt() {
  return {1, 2, 3, 4, 5};
}

generation_options brief() {
  generation_options o;
  o.max_tokens = 2;
  return o;
}

/// Of a reply that neither its length nor the context ends.
generation_options endless() {
  generation_options o;
  o.max_tokens = std::numeric_limits<std::size_t>::max();
  o.context_shift = true;
  o.ignore_eos = true;
  return o;
}

} // namespace

TEST_CASE("the plan has what requests may hold, and the arbiter no more") {
  auto config = testing::tiny_config(1);
  config.sequences = 1;
  runtime rt(config);
  rt.wait_until_loaded();
  const std::size_t planned = planned_for_requests(rt.plan());
  CHECK(planned >= rt.plan().request_bytes + 172 * rt.plan().kv_pages);
  CHECK(requests_of(rt).in_use_bytes == planned);
  for (auto&& piece : rt.generate(prompt(), brief()))
    static_cast<void>(piece);
  CHECK(requests_of(rt).peak_bytes == planned);
  CHECK(testing::peak_without_pages(rt.memory().front()) == testing::planned_without_pages(rt.plan()));
}

TEST_CASE("requests that wait are refused when they hold what is planned, until one has ended") {
  auto config = testing::tiny_config(1);
  config.sequences = 1;
  runtime rt(config);
  rt.wait_until_loaded();
  std::vector<generation> replies;
  std::optional<error> refused;
  constexpr std::size_t more_than_fit = 1000;
  while (!refused && replies.size() < more_than_fit)
    try {
      replies.push_back(rt.generate(prompt(), endless()));
    } catch (const error& e) {
      refused = e;
    }
  REQUIRE(refused);
  CHECK(refused->code() == errc::busy);
  CHECK_THAT(refused->what(), Contains("for prompt and replies") && Contains("try again when others have ended"));
  CHECK(testing::peak_without_pages(rt.memory().front()) == testing::planned_without_pages(rt.plan()));
  replies.clear(); // cancels them
  for (;;)         // they end one after another
    try {
      for (auto&& piece : rt.generate(prompt(), brief()))
        static_cast<void>(piece);
      break;
    } catch (const error& e) {
      REQUIRE(e.code() == errc::busy);
    }
}

TEST_CASE("a request that exceeds what is planned takes the budget's rest, or is refused with the numbers") {
  auto config = testing::tiny_config(1);
  config.sequences = 1;
  config.kv_tokens = 256;
  generation_options large;
  large.max_tokens = 1;
  large.stop_tokens.assign(300000, 1); // what a client may send
  {
    runtime rt(config);
    CHECK_THROWS_WITH((void)rt.generate(prompt(), large),
                      Contains("may take") && Contains("are planned for requests") && Contains("larger budget"));
  }
  config.budget_bytes = runtime::plan(config).total_bytes + (std::size_t{8} << 20);
  runtime rt(config);
  const std::size_t before = requests_of(rt).in_use_bytes;
  {
    auto reply = rt.generate(prompt(), large);
    CHECK(requests_of(rt).in_use_bytes > before + 1000000);
    while (reply.next()) {
    }
  }
  for (auto&& piece : rt.generate(prompt(), brief())) // the next request finds it given back
    static_cast<void>(piece);
  CHECK(requests_of(rt).in_use_bytes == before);
}

TEST_CASE("a configuration may plan more for requests") {
  auto config = testing::tiny_config(1);
  const std::size_t usual = planned_for_requests(runtime::plan(config));
  config.request_bytes = std::size_t{64} << 20;
  CHECK(planned_for_requests(runtime::plan(config)) > usual + (std::size_t{32} << 20));
}

TEST_CASE("a text that can't fit is refused before it is tokenised") {
  runtime rt(testing::tiny_config(1));
  const std::string text(1000000, 'x');
  for (const auto& ask : {std::function<void()>([&] { (void)rt.generate(text); }),
                          std::function<void()>([&] { (void)rt.encode(text); }), std::function<void()>([&] {
                            (void)rt.chat({{"user", text}});
                          })})
    CHECK_THROWS_WITH(ask(), Contains("1000000 bytes, at least") && Contains("the context holds 256"));
}
