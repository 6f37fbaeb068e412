// Defines the table of tensor types, half precision, and the check for NaN.
#include "kernels/tensor_type.hpp"

#include "kernels/block_formats.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>

namespace tropilla {
namespace {

using namespace formats;

constexpr std::array<tensor_type_info, 14> types{{
    {tensor_type::f32, "F32", 1, sizeof(float)},
    {tensor_type::f16, "F16", 1, sizeof(half_bits)},
    {tensor_type::q4_0, "Q4_0", small_block, sizeof(block_q4_0)},
    {tensor_type::q4_1, "Q4_1", small_block, sizeof(block_q4_1)},
    {tensor_type::q5_0, "Q5_0", small_block, sizeof(block_q5_0)},
    {tensor_type::q5_1, "Q5_1", small_block, sizeof(block_q5_1)},
    {tensor_type::q8_0, "Q8_0", small_block, sizeof(block_q8_0)},
    {tensor_type::q2_k, "Q2_K", super_block, sizeof(block_q2_k)},
    {tensor_type::q3_k, "Q3_K", super_block, sizeof(block_q3_k)},
    {tensor_type::q4_k, "Q4_K", super_block, sizeof(block_q4_k)},
    {tensor_type::q5_k, "Q5_K", super_block, sizeof(block_q5_k)},
    {tensor_type::q6_k, "Q6_K", super_block, sizeof(block_q6_k)},
    {tensor_type::iq4_nl, "IQ4_NL", small_block, sizeof(block_iq4_nl)},
    {tensor_type::bf16, "BF16", 1, sizeof(std::uint16_t)},
}};

constexpr char upper(char c) noexcept {
  return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}

/// Whether the bits under `mask` (an exponent) are never all set at `offset` of any block.
template <class Word>
bool exponents_are_finite(std::span<const std::byte> blocks, std::size_t stride, std::size_t offset,
                          Word mask) noexcept {
  // No branch inside: a run of blocks costs what reading it costs.
  constexpr std::size_t run = 4096;
  const std::size_t count = blocks.size() / stride;
  const std::byte* at = blocks.data() + offset;
  for (std::size_t first = 0; first < count; first += run) {
    const std::size_t last = std::min(count, first + run);
    unsigned bad = 0;
    for (std::size_t i = first; i < last; ++i) {
      Word word;
      std::memcpy(&word, at + i * stride, sizeof(word));
      bad |= static_cast<unsigned>((word & mask) == mask);
    }
    if (bad != 0)
      return false;
  }
  return true;
}

template <class Block>
bool halves_are_finite(std::span<const std::byte> blocks, std::size_t offset) noexcept {
  constexpr std::uint16_t half_exponent = 0x7C00;
  return exponents_are_finite<std::uint16_t>(blocks, sizeof(Block), offset, half_exponent);
}

template <class Block>
bool d_and_dmin_are_finite(std::span<const std::byte> blocks) noexcept {
  return halves_are_finite<Block>(blocks, offsetof(Block, d)) &&
         halves_are_finite<Block>(blocks, offsetof(Block, dmin));
}

} // namespace

std::span<const tensor_type_info> tensor_types() noexcept {
  return types;
}

const tensor_type_info& info(tensor_type type) noexcept {
  for (const auto& entry : types)
    if (entry.type == type)
      return entry;
  assert(false && "not an enumerator of tensor_type");
  return types.front();
}

std::optional<tensor_type> tensor_type_from_number(std::uint32_t number) noexcept {
  for (const auto& entry : types)
    if (static_cast<std::uint32_t>(entry.type) == number)
      return entry.type;
  return std::nullopt;
}

std::optional<tensor_type> tensor_type_from_name(std::string_view name) noexcept {
  const auto same = [](char a, char b) { return upper(a) == upper(b); };
  for (const auto& entry : types)
    if (std::equal(name.begin(), name.end(), entry.name.begin(), entry.name.end(), same))
      return entry.type;
  return std::nullopt;
}

std::size_t row_bytes(tensor_type type, std::size_t values) noexcept {
  const auto& t = info(type);
  assert(values % t.block_values == 0);
  return values / t.block_values * t.block_bytes;
}

bool blocks_are_finite(tensor_type type, std::span<const std::byte> blocks) noexcept {
  constexpr std::uint16_t bf16_exponent = 0x7F80;
  constexpr std::uint32_t float_exponent = 0x7F800000;
  switch (type) {
  case tensor_type::f32:
    return exponents_are_finite<std::uint32_t>(blocks, sizeof(float), 0, float_exponent);
  case tensor_type::f16:
    return halves_are_finite<half_bits>(blocks, 0);
  case tensor_type::bf16:
    return exponents_are_finite<std::uint16_t>(blocks, sizeof(std::uint16_t), 0, bf16_exponent);
  case tensor_type::q4_0:
    return halves_are_finite<block_q4_0>(blocks, offsetof(block_q4_0, d));
  case tensor_type::q4_1:
    return halves_are_finite<block_q4_1>(blocks, offsetof(block_q4_1, d)) &&
           halves_are_finite<block_q4_1>(blocks, offsetof(block_q4_1, m));
  case tensor_type::q5_0:
    return halves_are_finite<block_q5_0>(blocks, offsetof(block_q5_0, d));
  case tensor_type::q5_1:
    return halves_are_finite<block_q5_1>(blocks, offsetof(block_q5_1, d)) &&
           halves_are_finite<block_q5_1>(blocks, offsetof(block_q5_1, m));
  case tensor_type::q8_0:
    return halves_are_finite<block_q8_0>(blocks, offsetof(block_q8_0, d));
  case tensor_type::q2_k:
    return d_and_dmin_are_finite<block_q2_k>(blocks);
  case tensor_type::q3_k:
    return halves_are_finite<block_q3_k>(blocks, offsetof(block_q3_k, d));
  case tensor_type::q4_k:
    return d_and_dmin_are_finite<block_q4_k>(blocks);
  case tensor_type::q5_k:
    return d_and_dmin_are_finite<block_q5_k>(blocks);
  case tensor_type::q6_k:
    return halves_are_finite<block_q6_k>(blocks, offsetof(block_q6_k, d));
  case tensor_type::iq4_nl:
    return halves_are_finite<block_iq4_nl>(blocks, offsetof(block_iq4_nl, d));
  }
  return false;
}

float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0) {
    // Subnormal: fraction * 2^-24 is exact in float32.
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t widened = exponent == 0x1F ? 0xFFU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (widened << 23) | (fraction << 13));
}

std::uint16_t float_to_half(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) // NaN: quiet, with what fits of its payload
    return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  if (magnitude >= 0x477FF000U) // 65520 and above round to infinity
    return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < 0x38800000U) {
    // Below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded to nearest even by the adder.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - ((127U - 15U) << 23)) >> 13));
}

float bf16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

} // namespace tropilla
