// What is refused before anything is leased.
#include "src/sampling/check.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>

using namespace tropilla;

TEST_CASE("the engine takes every number that the command line takes, and NaN is in no range") {
  using limits = sampling_limits;
  for (const sampling_limit& l : {limits::temperature, limits::top_p, limits::min_p, limits::typical_p,
                                  limits::repetition_penalty, limits::frequency_penalty, limits::presence_penalty}) {
    CHECK(l.engine.has(l.typed.min));
    CHECK(l.engine.has(l.typed.max));
    CHECK_FALSE(l.engine.has(std::nan("")));
    CHECK_FALSE(l.engine.has(INFINITY));
  }
  generation_options o; // beyond what the command line takes
  o.sampling.temperature = 1e300;
  o.sampling.typical_p = 1e-300;
  o.sampling.repetition_penalty = 1e-300;
  o.sampling.frequency_penalty = -1e300;
  CHECK_NOTHROW(check_generation(o, 100));
}

TEST_CASE("impossible options are refused with the number") {
  const auto refused = [](const std::function<void(generation_options&)>& change, const char* says) {
    generation_options o;
    CHECK_NOTHROW(check_generation(o, 100));
    change(o);
    try {
      check_generation(o, 100);
      FAIL("accepted, but should say " << says);
    } catch (const error& e) {
      CHECK(e.code() == errc::invalid_argument);
      CHECK_THAT(e.what(), Catch::Contains(says));
    }
  };
  const double nan = std::nan("");
  refused([&](auto& o) { o.sampling.temperature = -1; }, "-1");
  refused([&](auto& o) { o.sampling.temperature = nan; }, "temperature");
  refused([&](auto& o) { o.sampling.temperature = INFINITY; }, "temperature");
  refused([&](auto& o) { o.sampling.top_p = -0.1; }, "top-p");
  refused([&](auto& o) { o.sampling.top_p = 1.5; }, "1.5");
  refused([&](auto& o) { o.sampling.top_p = nan; }, "top-p");
  refused([&](auto& o) { o.sampling.typical_p = 0; }, "typical-p");
  refused([&](auto& o) { o.sampling.min_p = -0.1; }, "min-p");
  refused([&](auto& o) { o.sampling.min_p = 1.1; }, "min-p");
  refused([&](auto& o) { o.sampling.repetition_penalty = 0; }, "repetition");
  refused([&](auto& o) { o.sampling.repetition_penalty = INFINITY; }, "repetition");
  refused([&](auto& o) { o.sampling.frequency_penalty = nan; }, "frequency");
  refused([&](auto& o) { o.sampling.presence_penalty = INFINITY; }, "presence");
  refused([&](auto& o) { o.sampling.bias = {{100, 1}}; }, "100");
  refused([&](auto& o) { o.sampling.bias = {{5, NAN}}; }, "token 5");
  refused([&](auto& o) { o.sampling.banned = {-1}; }, "-1");
  refused(
      [&](auto& o) {
        o.sampling.banned.resize(100);
        std::iota(o.sampling.banned.begin(), o.sampling.banned.end(), 0);
      },
      "all 100");
  refused([&](auto& o) { o.stop_tokens = {1, 100}; }, "100");
  refused([&](auto& o) { o.stop = {"a", ""}; }, "empty");
  refused([&](auto& o) { o.stop.assign(1000000, "a"); }, "1000000");
  refused([&](auto& o) { o.stop = {std::string(5000, 'a')}; }, "5000");
  refused([&](auto& o) { o.logprobs = 21; }, "21");
}
