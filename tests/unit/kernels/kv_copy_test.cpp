// The beginning of a page, token by token.
#include "kernels/kv_copy.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <set>
#include <vector>

using namespace tropilla;

namespace {

/// The offsets of a token's bytes in a layer, from the description of the format.
std::set<std::size_t> bytes_of_token(kv_type type, std::size_t heads, std::size_t key, std::size_t value,
                                     std::size_t token) {
  std::set<std::size_t> out;
  const std::size_t width = type == kv_type::q8_0 ? 1 : 2;
  const auto add = [&](std::size_t at, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i)
      out.insert(at + i);
  };
  for (std::size_t h = 0; h < heads; ++h) {
    const std::size_t keys = h * kv_head_bytes(type, key);
    for (std::size_t d = 0; d < key; ++d)
      add(keys + (d * 32 + token) * width, width);
    const std::size_t values = heads * kv_head_bytes(type, key) + h * kv_head_bytes(type, value);
    add(values + token * value * width, value * width);
    if (type != kv_type::q8_0)
      continue;
    for (std::size_t b = 0; b < kv_blocks(key); ++b)
      add(keys + key * 32 + (b * 32 + token) * 2, 2);
    add(values + value * 32 + token * kv_blocks(value) * 2, kv_blocks(value) * 2);
  }
  return out;
}

} // namespace

TEST_CASE("the tokens that are copied are whole, and zeros lie behind them") {
  constexpr std::size_t heads = 2, key = 40, value = 64;
  std::mt19937 random(3);
  for (const auto type : {kv_type::f16, kv_type::bf16, kv_type::q8_0}) {
    std::vector<std::byte> from(kv_layer_bytes(type, heads, key, value));
    for (auto& b : from)
      b = static_cast<std::byte>(1 + random() % 255);
    for (const std::size_t tokens : {0, 1, 17, 31, 32}) {
      std::vector<std::byte> to(from.size(), std::byte{0xEE}), expected(from.size());
      for (std::size_t t = 0; t < tokens; ++t)
        for (const auto at : bytes_of_token(type, heads, key, value, t))
          expected[at] = from[at];
      copy_kv_tokens(type, heads, key, value, from.data(), to.data(), tokens);
      CHECK(to == expected);
    }
  }
}
