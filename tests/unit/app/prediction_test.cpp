// What is predicted from given speeds, and the sentences about it.
#include "app/prediction.hpp"

#include <catch2/catch.hpp>

using namespace tropilla::app;

namespace {

/// 4 GB of weights, a half of it streamed, 8e9 parameters of which the head has one eighth.
constexpr step_cost cost{2'000'000'000, 4'000'000'000, 7'000'000'000, 8'000'000'000, 512};
constexpr machine_speed fast{20e9, 40e9, 1e12};

} // namespace

TEST_CASE("a pass takes as long as the slowest of disk, memory and arithmetic") {
  const auto memory = predict(cost, fast); // 0.1 s to read, 0.1 s of memory, 0.016 s; prefill 7.168 s
  REQUIRE(memory.decode);
  CHECK(memory.decode->tokens_per_second == Approx(10));
  REQUIRE(memory.prefill);
  CHECK(memory.prefill->binds == limit::compute);
  CHECK(memory.prefill->tokens_per_second == Approx(512 / 7.168));

  const auto disk = predict(cost, {1e9, 40e9, 1e12});
  CHECK(disk.decode->binds == limit::disk);
  CHECK(disk.decode->tokens_per_second == Approx(0.5));
  CHECK(disk.prefill->binds == limit::compute); // a pass of 512 hides the disk
  CHECK(predict(cost, {0.1e9, 40e9, 1e12}).prefill->binds == limit::disk);

  const auto scalar = predict(cost, {20e9, 40e9, 16e9});
  CHECK(scalar.decode->binds == limit::compute);
  CHECK(scalar.decode->tokens_per_second == Approx(1));

  // Slower than memory, but by what keeps the cores busy: half of the time and more is arithmetic.
  const auto busy = predict(cost, {20e9, 4e9, 30e9});
  CHECK(busy.decode->binds == limit::compute);
  CHECK(busy.decode->tokens_per_second == Approx(1));
  CHECK(predict(cost, {20e9, 4e9, 34e9}).decode->binds == limit::memory);
}

TEST_CASE("a plan that streams nothing does not depend on the disk") {
  auto resident = cost;
  resident.streamed_bytes = 0;
  const auto p = predict(resident, {0, 40e9, 1e12});
  REQUIRE(p.decode);
  CHECK(p.decode->binds == limit::memory);
  CHECK(p.decode->tokens_per_second == Approx(10));
}

TEST_CASE("sequences of a step share its weights, and not its arithmetic") {
  const machine_speed slow_disk{1e9, 40e9, 1e12}; // 2 s to read, 0.016 s of arithmetic for each
  CHECK(predict_decode(cost, slow_disk, 1)->tokens_per_second == Approx(0.5));
  CHECK(predict_decode(cost, slow_disk, 8)->tokens_per_second == Approx(4));
  const auto many = predict_decode(cost, slow_disk, 250); // 4 s of arithmetic
  CHECK(many->tokens_per_second == Approx(62.5));
  CHECK(many->binds == limit::compute);
  CHECK(!predict_decode(cost, {0, 40e9, 1e12}, 8));
}

TEST_CASE("what depends on a speed that could not be measured is not predicted, and says so") {
  for (const machine_speed speed : {machine_speed{0, 40e9, 1e12}, machine_speed{20e9, 0, 1e12}, machine_speed{}}) {
    const auto p = predict(cost, speed);
    CHECK_FALSE(p.decode);
    CHECK_FALSE(p.prefill);
  }
  const machine_speed no_disk{0, 40e9, 1e12};
  CHECK(describe(predict(cost, no_disk), cost, no_disk) ==
        "predicted  decode unknown: reads of the file could not be measured\n"
        "           prefill of 512 unknown: reads of the file could not be measured\n");
  CHECK_THAT(describe({}, cost, {}), Catch::Contains("reads of the file, memory, arithmetic could not"));
  CHECK_FALSE(predict({}, fast).decode); // no work, no rate
}

TEST_CASE("the prediction says what binds, and what helps where the disk does") {
  const machine_speed slow_disk{1e9, 40e9, 1e12};
  CHECK(describe(predict(cost, slow_disk), cost, slow_disk) ==
        "predicted  decode 0.50 tok/s: the disk binds (1.9 GiB per token at 1.0 GB/s); more tokens per pass\n"
        "           (batches) or fewer bytes (a larger budget, smaller types) raise it\n"
        "           prefill of 512: 71 tok/s: compute binds (14.00 GOP per token at 1000 GOP/s)\n");
  auto resident = cost;
  resident.streamed_bytes = 0;
  CHECK_THAT(describe(predict(resident, slow_disk), resident, slow_disk),
             Catch::Contains("decode 10 tok/s: memory binds (3.7 GiB of weights per token at 40.0 GB/s)\n"));
}
