// What a request may ask for.
#include "src/schedule/sequence.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <cmath>

using namespace tropilla;

TEST_CASE("requests that can't run are refused with the numbers") {
  sequence_request r;
  CHECK_THROWS_WITH(check_request(r, {100, 16, 64}), Catch::Contains("empty"));
  r.prompt = {1, 2, 100};
  CHECK_THROWS_WITH(check_request(r, {100, 16, 64}), Catch::Contains("100"));
  r.prompt = {1, -1};
  CHECK_THROWS_AS(check_request(r, {100, 16, 64}), error);
  r.prompt.assign(16, 1);
  CHECK_THROWS_WITH(check_request(r, {100, 16, 64}), Catch::Contains("16") && Catch::Contains("17"));
  r.prompt.assign(64, 1);
  CHECK_THROWS_WITH(check_request(r, {100, 16, 64}),
                    Catch::Contains("more than the 63") && !Catch::Contains("context of"));
  r.prompt.assign(15, 1);
  CHECK_NOTHROW(check_request(r, {100, 16, 64}));
  r.prompt.assign(16, 1);
  r.score = true;
  CHECK_NOTHROW(check_request(r, {100, 16, 64}));
  r.score = false;
  r.prompt.assign(3, 1);
  const auto refused = [&](auto change) {
    auto bad = r;
    change(bad.options);
    CHECK_THROWS_AS(check_request(bad, {100, 16, 64}), error);
  };
  refused([](auto& o) { o.sampling.temperature = -1; });
  refused([](auto& o) { o.outputs = 0; });
  refused([](auto& o) { o.max_tokens = 0; });
  refused([](auto& o) { o.outputs = 1000000; });
  refused([](auto& o) { o.timeout_seconds = -1; });
  refused([](auto& o) { o.deadline_seconds = std::nan(""); });
  refused([](auto& o) { o.context_shift = true, o.context_keep = 16; });
}
