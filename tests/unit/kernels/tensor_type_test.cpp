// Tensor types against PyPI's `gguf` (tests/oracles/make_quant_oracle.py) and against their own formulas.
#include "kernels/tensor_type.hpp"

#include "kernels/block_formats.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace tropilla;

namespace {

/// One record of the oracle's file.
struct conversion {
  tensor_type type{};
  bool to_blocks = false;
  std::vector<std::byte> blocks;
  std::vector<float> floats;
};

std::vector<conversion> read_oracle() {
  std::ifstream in(TROPILLA_TEST_DATA "/quant-oracle.bin", std::ios::binary);
  REQUIRE(in.good());
  std::vector<conversion> all;
  char name[9] = {};
  while (in.read(name, 8)) {
    std::uint32_t header[3];
    REQUIRE(in.read(reinterpret_cast<char*>(header), sizeof(header)));
    conversion c;
    c.type = tensor_type_from_name(name).value();
    c.to_blocks = header[0] == 1;
    c.blocks.resize(header[1]);
    c.floats.resize(header[2]);
    REQUIRE(in.read(reinterpret_cast<char*>(c.blocks.data()), header[1]));
    REQUIRE(in.read(reinterpret_cast<char*>(c.floats.data()), header[2] * sizeof(float)));
    all.push_back(std::move(c));
  }
  return all;
}

/// Index of the first float whose bits differ, or the size.
std::size_t first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]))
      return i;
  return a.size();
}

std::vector<float> normal_values(std::size_t count, unsigned seed, float scale) {
  std::mt19937 gen(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> x(count);
  for (float& v : x)
    v = normal(gen);
  return x;
}

} // namespace

TEST_CASE("every block format dequantises to the bits that gguf gives") {
  std::size_t types = 0;
  for (const auto& c : read_oracle()) {
    if (c.to_blocks)
      continue;
    INFO(info(c.type).name);
    std::vector<float> out(c.floats.size(), std::numeric_limits<float>::quiet_NaN());
    REQUIRE(row_bytes(c.type, out.size()) == c.blocks.size());
    dequantise(c.type, c.blocks, out);
    CHECK(first_difference(out, c.floats) == out.size());
    ++types;
  }
  CHECK(types == 13); // all but F32
}

TEST_CASE("the simple formats quantise to the bytes that gguf gives") {
  std::size_t types = 0;
  for (const auto& c : read_oracle()) {
    if (!c.to_blocks)
      continue;
    INFO(info(c.type).name);
    std::vector<std::byte> out(c.blocks.size(), std::byte{0xA5});
    quantise(c.type, c.floats, out);
    const auto differs = std::mismatch(out.begin(), out.end(), c.blocks.begin());
    CHECK(differs.first - out.begin() == std::ssize(out));
    ++types;
  }
  CHECK(types == 7);
}

TEST_CASE("quantising loses no more than the type's step") {
  // Root mean square error over that of the values, for a normal distribution; each bit halves it.
  const auto bound = [](tensor_type type) {
    switch (type) {
    case tensor_type::f32:
      return 0.0;
    case tensor_type::f16:
      return 0.0004;
    case tensor_type::bf16:
      return 0.003;
    case tensor_type::q8_0:
      return 0.008;
    case tensor_type::q6_k:
      return 0.025;
    case tensor_type::q5_0:
    case tensor_type::q5_1:
    case tensor_type::q5_k:
      return 0.055;
    case tensor_type::q4_0:
    case tensor_type::q4_1:
    case tensor_type::q4_k:
    case tensor_type::iq4_nl:
      return 0.11;
    case tensor_type::q3_k:
      return 0.22;
    case tensor_type::q2_k:
      return 0.45;
    }
    return 0.0;
  };
  for (const float scale : {0.02F, 1.0F, 300.0F})
    for (const auto& t : tensor_types()) {
      INFO(t.name << " at " << scale);
      const auto x = normal_values(256 * 40, 7, scale);
      std::vector<std::byte> blocks(row_bytes(t.type, x.size()));
      std::vector<float> back(x.size());
      quantise(t.type, x, blocks);
      dequantise(t.type, blocks, back);
      double error = 0;
      double power = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        error += std::pow(static_cast<double>(back[i]) - x[i], 2);
        power += std::pow(static_cast<double>(x[i]), 2);
      }
      CHECK(std::sqrt(error / power) <= bound(t.type));
      CHECK(blocks_are_finite(t.type, blocks));
    }
}

TEST_CASE("quantising zeros, constants and huge values gives finite blocks") {
  std::vector<std::vector<float>> inputs;
  for (const float v : {0.0F, 1.0F, -1.0F, 1e-30F, -1e-42F, 1e5F, -3e38F})
    inputs.emplace_back(256, v);
  inputs.push_back(normal_values(256, 3, 1e30F));
  for (const auto& t : tensor_types())
    for (const auto& x : inputs) {
      INFO(t.name << " of " << x[0]);
      std::vector<std::byte> blocks(row_bytes(t.type, x.size()));
      quantise(t.type, x, blocks);
      std::vector<float> back(x.size());
      dequantise(t.type, blocks, back);
      if (x[0] == 0.0F)
        CHECK(back == x);
      if (t.block_values > 1) {
        CHECK(blocks_are_finite(t.type, blocks));
        CHECK(std::all_of(back.begin(), back.end(), [](float v) { return std::isfinite(v); }));
      }
    }
}

TEST_CASE("half precision round-trips every value and rounds to nearest even") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float wide = half_to_float(half);
    if ((half & 0x7C00) == 0x7C00 && (half & 0x3FF) != 0) {
      REQUIRE(std::isnan(wide));
      REQUIRE(std::isnan(half_to_float(float_to_half(wide))));
      continue;
    }
    REQUIRE(float_to_half(wide) == half);
    // Halfway to the next value goes to the even one; a hair above goes up.
    if ((half & 0x7FFF) < 0x7BFF) {
      const float next = half_to_float(static_cast<std::uint16_t>(half + 1));
      const float middle = wide + (next - wide) / 2;
      REQUIRE(float_to_half(middle) == (half % 2 == 0 ? half : half + 1));
      REQUIRE(float_to_half(std::nextafter(middle, next)) == half + 1);
      REQUIRE(float_to_half(std::nextafter(middle, wide)) == half);
    }
  }
  CHECK(float_to_half(65519.99F) == 0x7BFF);
  CHECK(float_to_half(65520.0F) == 0x7C00);
  CHECK(float_to_half(-std::numeric_limits<float>::infinity()) == 0xFC00);
}

TEST_CASE("bfloat16 round-trips and rounds to nearest even") {
  CHECK(bf16_to_float(0x3F80) == 1.0F);
  CHECK(float_to_bf16(1.0F) == 0x3F80);
  CHECK(float_to_bf16(std::bit_cast<float>(0x3F808000U)) == 0x3F80);
  CHECK(float_to_bf16(std::bit_cast<float>(0x3F818000U)) == 0x3F82);
  CHECK(float_to_bf16(std::bit_cast<float>(0x3F808001U)) == 0x3F81);
  CHECK(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7F800001U)))));
}

TEST_CASE("types are found by number and by name in any case") {
  CHECK(tensor_types().size() == 14);
  for (const auto& t : tensor_types()) {
    CHECK(tensor_type_from_number(static_cast<std::uint32_t>(t.type)) == t.type);
    CHECK(tensor_type_from_name(t.name) == t.type);
    std::string lower(t.name);
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    CHECK(tensor_type_from_name(lower) == t.type);
  }
  CHECK_FALSE(tensor_type_from_number(4).has_value());
  CHECK_FALSE(tensor_type_from_number(0xFFFFFFFFU).has_value());
  CHECK_FALSE(tensor_type_from_name("Q4").has_value());
  CHECK_FALSE(tensor_type_from_name("").has_value());
}

TEST_CASE("a NaN or infinite scale is found wherever it is") {
  struct place {
    tensor_type type;
    std::vector<std::size_t> offsets; ///< of halves in a block
  };
  const std::vector<place> places{
      {tensor_type::f16, {0}},       {tensor_type::q4_0, {0}},    {tensor_type::q4_1, {0, 2}},
      {tensor_type::q5_0, {0}},      {tensor_type::q5_1, {0, 2}}, {tensor_type::q8_0, {0}},
      {tensor_type::q2_k, {80, 82}}, {tensor_type::q3_k, {108}},  {tensor_type::q4_k, {0, 2}},
      {tensor_type::q5_k, {0, 2}},   {tensor_type::q6_k, {208}},  {tensor_type::iq4_nl, {0}},
  };
  for (const auto& p : places) {
    const auto& t = info(p.type);
    INFO(t.name);
    constexpr std::size_t blocks = 5000; // more than one run of the check
    std::vector<std::byte> data(blocks * t.block_bytes, std::byte{0x11});
    CHECK(blocks_are_finite(p.type, data));
    for (const std::size_t offset : p.offsets)
      for (const std::size_t block : {std::size_t{0}, std::size_t{4095}, std::size_t{4096}, blocks - 1})
        for (const std::uint16_t bad : std::initializer_list<std::uint16_t>{0x7C00, 0xFC00, 0x7E00, 0xFFFF}) {
          auto broken = data;
          std::memcpy(broken.data() + block * t.block_bytes + offset, &bad, sizeof(bad));
          REQUIRE_FALSE(blocks_are_finite(p.type, broken));
        }
  }
  std::vector<float> floats(100, 3e38F);
  CHECK(blocks_are_finite(tensor_type::f32, std::as_bytes(std::span(floats))));
  floats[99] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(blocks_are_finite(tensor_type::f32, std::as_bytes(std::span(floats))));
  const std::vector<std::uint16_t> brain{0x7F7F, 0xFF80};
  CHECK(blocks_are_finite(tensor_type::bf16, std::as_bytes(std::span(brain).first(1))));
  CHECK_FALSE(blocks_are_finite(tensor_type::bf16, std::as_bytes(std::span(brain))));
  CHECK(blocks_are_finite(tensor_type::q4_0, {}));
}
