// The forward pass through loader, packing and kernels against plain loops in double precision.
#include "tests/support/lone_model.hpp"
#include "tests/support/naive_llama.hpp"
#include "tests/support/tiny_model.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

using namespace tropilla;
using tropilla::testing::lone_model;

namespace {

/// Root of the mean squared difference, relative to the reference's spread.
double relative_error(std::span<const float> ours, const std::vector<std::vector<double>>& reference) {
  double difference = 0, spread = 0;
  std::size_t i = 0;
  for (const auto& row : reference)
    for (const double r : row) {
      const double d = static_cast<double>(ours[i++]) - r;
      difference += d * d;
      spread += r * r;
    }
  return std::sqrt(difference / spread);
}

constexpr run_shape small{96, 48, 48};

} // namespace

TEST_CASE("the forward pass gives the logits of plain double precision loops, for every tensor type") {
  const auto type =
      GENERATE(tensor_type::f32, tensor_type::f16, tensor_type::bf16, tensor_type::q4_0, tensor_type::q4_1,
               tensor_type::q5_0, tensor_type::q5_1, tensor_type::q8_0, tensor_type::q2_k, tensor_type::q3_k,
               tensor_type::q4_k, tensor_type::q5_k, tensor_type::q6_k, tensor_type::iq4_nl);
  const auto path = testing::tiny_model(type);
  host_options options;
  options.threads = 2;
  options.precise = true;
  lone_model precise(path, options, small);
  const auto ids = synthetic_ids(40, precise.layout.config.vocabulary);
  const auto reference = testing::naive_llama(precise.file).logits(ids);
  INFO(info(type).name);
  CHECK(relative_error(precise.logits(ids, 48), reference) < 2e-3); // keys and values are half precision

  options.precise = false;
  lone_model quantised(path, options, small);
  CHECK(relative_error(quantised.logits(ids, 48), reference) < 3e-2);
}

TEST_CASE("keys and values of fewer bits change the logits by as much as they round away") {
  const auto path = testing::tiny_model(tensor_type::f32);
  host_options options;
  options.threads = 2;
  options.precise = true;
  lone_model halves(path, options, small);
  const auto ids = synthetic_ids(40, halves.layout.config.vocabulary);
  const auto reference = testing::naive_llama(halves.file).logits(ids);
  for (const auto& [type, most] : {std::pair{kv_type::bf16, 1e-2}, std::pair{kv_type::q8_0, 2e-2}}) {
    run_shape shape = small;
    shape.kv = type;
    lone_model other(path, options, shape);
    const double error = relative_error(other.logits(ids, 48), reference);
    INFO(to_string(type) << " " << error);
    CHECK(error < most);
    CHECK(error > relative_error(halves.logits(ids, 48), reference));
  }
}

TEST_CASE("logits do not depend on how a prompt is cut into steps, nor on the number of threads") {
  const auto path = testing::tiny_model(tensor_type::q4_k);
  const auto type = GENERATE(kv_type::f16, kv_type::bf16, kv_type::q8_0);
  run_shape shape = small;
  shape.kv = type;
  INFO(to_string(type));
  host_options options;
  options.threads = 1;
  lone_model one(path, options, shape);
  const auto ids = synthetic_ids(70, one.layout.config.vocabulary);
  const auto expected = one.logits(ids, 48);
  for (const std::size_t rows : {1, 7, 32, 33}) {
    const auto got = one.logits(ids, rows);
    INFO(rows << " rows a step");
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
  }
  options.threads = 3;
  lone_model three(path, options, shape);
  const auto got = three.logits(ids, 48);
  CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
}

TEST_CASE("tiles of the head and rows looked up on disk give the logits of the whole, for tied and untied heads") {
  const bool tied = GENERATE(true, false);
  const auto type = GENERATE(tensor_type::q8_0, tensor_type::f32, tensor_type::f16);
  const auto path = testing::tiny_model(type, tied);
  host_options options;
  options.threads = 2;
  lone_model whole(path, options, small);
  lone_model tiled(path, options, small, weight_form::tiled, 40000);
  INFO(info(type).name << (tied ? " tied" : " untied"));
  REQUIRE(tiled.layout.groups.size() > whole.layout.groups.size() + 1);
  for (const auto& g : tiled.layout.groups)
    CHECK(g.section_offset % group_alignment == 0);
  const auto ids = synthetic_ids(40, whole.layout.config.vocabulary);
  const auto expected = whole.logits(ids, 48);
  const auto got = tiled.logits(ids, 17);
  CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
}
