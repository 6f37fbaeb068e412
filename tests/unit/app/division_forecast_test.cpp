// The ends that a plan's memory flows between, and from how many sequences on pages are worth more than weights.
#include "app/division_forecast.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::app;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

/// 64 MiB of weights, of which more is streamed the more pages there are.
plan_report crowded_plan() {
  plan_report p;
  p.context = 512;
  p.sequences = 8;
  p.kv_page_tokens = 32;
  p.divisions = {{512, 0, 100 * mib, 0}, {1024, 16 * mib, 100 * mib, 3}, {2048, 48 * mib, 100 * mib, 3}};
  return p;
}

constexpr step_cost cost{0, 64 * mib, 1'000'000, 1'000'000, 512};
/// 10 ms of memory for a step; reading takes `ms_per_16_mib` for the second division, three times that for the third.
machine_speed reading(double ms_per_16_mib) {
  return {16.0 * mib / (ms_per_16_mib * 1e-3), 64.0 * mib / 10e-3, 1e12};
}

} // namespace

TEST_CASE("a plan with two divisions and more shows its ends") {
  CHECK(describe_ends(crowded_plan()) ==
        "Memory flows between two ends: 512 tokens with KV pages and all weights in memory,\nor "
        "2048 tokens and 48.0 MiB streamed per step.\n");
  auto one = crowded_plan();
  one.divisions.resize(1);
  CHECK(describe_ends(one).empty());
  CHECK(describe(predict_flow(one, cost, reading(1)), one).empty());
  CHECK(describe_ends({}).empty());
}

TEST_CASE("more pages give more where streaming for them takes less time than the sequences gain") {
  const auto plan = crowded_plan();
  const auto sequences = [&](double ms_per_16_mib) {
    const auto flow = predict_flow(plan, cost, reading(ms_per_16_mib));
    REQUIRE(flow.crossings.size() == 2);
    CHECK(flow.crossings[0].tokens == 512);
    CHECK(flow.crossings[1].tokens == 128);
    return std::pair{flow.crossings[0].sequences, flow.crossings[1].sequences};
  };
  using both = std::pair<std::optional<std::size_t>, std::optional<std::size_t>>;
  CHECK(sequences(2) == both{2, 5});  // reading hides: one more than there are pages for is enough
  CHECK(sequences(12) == both{2, 5}); // 2 in 12 ms, 5 in 12 ms, instead of 1 and 4 in 10 ms
  CHECK(sequences(14) == both{2, 6}); // 6 in 14 ms, 5 would be less than 4 in 10 ms
  CHECK(sequences(22) == both{std::nullopt, std::nullopt}); // 2 in 22 ms, 4 in 66 ms; 8 in 22 ms
}

TEST_CASE("one sequence is predicted for each division, and the ends are told") {
  const auto plan = crowded_plan();
  const auto flow = predict_flow(plan, cost, reading(12));
  REQUIRE(flow.one_sequence.size() == 3);
  CHECK(*flow.one_sequence[0] == Approx(100));
  CHECK(*flow.one_sequence[1] == Approx(1000 / 12.0));
  CHECK(*flow.one_sequence[2] == Approx(1000 / 36.0));
  CHECK(describe(flow, plan) ==
        "           one sequence: 100 tok/s with pages for 512 tokens, 28 tok/s with pages for 2048;\n"
        "           from 2 sequences of 512 tokens or 5 sequences of 128 tokens on, more pages give "
        "more tok/s\n");
  CHECK_THAT(describe(predict_flow(plan, cost, reading(22)), plan),
             Catch::EndsWith(";\n           for up to 8 sequences, more pages give no more tok/s\n"));
  auto alone = plan;
  alone.sequences = 1;
  CHECK(describe(predict_flow(alone, cost, reading(12)), alone) ==
        "           one sequence: 100 tok/s with pages for 512 tokens, 28 tok/s with pages for 2048\n");
}

TEST_CASE("sequences that the fewest pages do not hold are compared from where there are pages for one") {
  auto plan = crowded_plan();
  plan.context = 1024;
  // One in 1024 tokens: 12 ms. Two in 2048: 36 ms.
  CHECK(!predict_flow(plan, cost, reading(12)).crossings[0].sequences);
  CHECK(predict_flow(plan, cost, reading(4)).crossings[0].sequences == 2);  // 10 ms, 12 ms
  CHECK(predict_flow(plan, cost, reading(12)).crossings[1].sequences == 3); // of 256 tokens: 2 in 10 ms, 3 in 12 ms
  plan.context = 4096;
  CHECK(!predict_flow(plan, cost, reading(4)).crossings[0].sequences);
}

TEST_CASE("without a speed nothing is told of what depends on it") {
  const auto plan = crowded_plan();
  const machine_speed no_disk{0, 64e9, 1e12};
  const auto flow = predict_flow(plan, cost, no_disk);
  CHECK(flow.one_sequence.front());
  CHECK(!flow.one_sequence.back());
  CHECK(!flow.crossings.front().sequences);
  CHECK(describe(flow, plan).empty());
}
