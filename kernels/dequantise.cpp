// Converts blocks to float32, each format as its formula reads: the reference for every kernel.
#include "kernels/tensor_type.hpp"

#include "kernels/block_formats.hpp"

#include <cassert>
#include <cstring>

namespace tropilla {
namespace {

using namespace formats;

void expand(const block_q4_0& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t j = 0; j < small_block / 2; ++j) {
    out[j] = d * static_cast<float>((b.qs[j] & 0x0F) - 8);
    out[j + small_block / 2] = d * static_cast<float>((b.qs[j] >> 4) - 8);
  }
}

void expand(const block_iq4_nl& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t j = 0; j < small_block / 2; ++j) {
    out[j] = d * static_cast<float>(iq4_nl_values[b.qs[j] & 0x0F]);
    out[j + small_block / 2] = d * static_cast<float>(iq4_nl_values[b.qs[j] >> 4]);
  }
}

void expand(const block_q4_1& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  const float m = half_to_float(b.m);
  for (std::size_t j = 0; j < small_block / 2; ++j) {
    out[j] = d * static_cast<float>(b.qs[j] & 0x0F) + m;
    out[j + small_block / 2] = d * static_cast<float>(b.qs[j] >> 4) + m;
  }
}

/// The five bits of value `i` of a Q5_0 or Q5_1 block.
int five_bits(const std::uint8_t* qh, const std::uint8_t* qs, std::size_t i) noexcept {
  const int low = (qs[i % (small_block / 2)] >> (i < small_block / 2 ? 0 : 4)) & 0x0F;
  return low | (((qh[i / 8] >> (i % 8)) & 1) << 4);
}

void expand(const block_q5_0& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t i = 0; i < small_block; ++i)
    out[i] = d * static_cast<float>(five_bits(b.qh, b.qs, i) - 16);
}

void expand(const block_q5_1& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  const float m = half_to_float(b.m);
  for (std::size_t i = 0; i < small_block; ++i)
    out[i] = d * static_cast<float>(five_bits(b.qh, b.qs, i)) + m;
}

void expand(const block_q8_0& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t i = 0; i < small_block; ++i)
    out[i] = d * static_cast<float>(b.qs[i]);
}

/// The two bits of value `i` of a Q2_K block; the low two of Q3_K.
int two_bits(const std::uint8_t* qs, std::size_t i) noexcept {
  return (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
}

void expand(const block_q2_k& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (std::size_t i = 0; i < super_block; ++i) {
    const float scale = d * static_cast<float>(b.scales[i / 16] & 0x0F);
    const float min = dmin * static_cast<float>(b.scales[i / 16] >> 4);
    out[i] = scale * static_cast<float>(two_bits(b.qs, i)) - min;
  }
}

void expand(const block_q3_k& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t i = 0; i < super_block; ++i) {
    const float scale = d * static_cast<float>(unpack_q3_k_scale(b.scales, i / 16) - 32);
    const int high = (b.hmask[i % 32] >> (i / 32)) & 1;
    out[i] = scale * static_cast<float>(two_bits(b.qs, i) + 4 * high - 4);
  }
}

void expand(const block_q4_k& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (std::size_t s = 0; s < 8; ++s) {
    const auto [six_scale, six_min] = unpack_scale_min(b.scales, s);
    const float scale = d * static_cast<float>(six_scale);
    const float min = dmin * static_cast<float>(six_min);
    for (std::size_t l = 0; l < 32; ++l) {
      const int q = (b.qs[s / 2 * 32 + l] >> (s % 2 * 4)) & 0x0F;
      out[32 * s + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void expand(const block_q5_k& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (std::size_t s = 0; s < 8; ++s) {
    const auto [six_scale, six_min] = unpack_scale_min(b.scales, s);
    const float scale = d * static_cast<float>(six_scale);
    const float min = dmin * static_cast<float>(six_min);
    for (std::size_t l = 0; l < 32; ++l) {
      const int q = ((b.qs[s / 2 * 32 + l] >> (s % 2 * 4)) & 0x0F) | (((b.qh[l] >> s) & 1) << 4);
      out[32 * s + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void expand(const block_q6_k& b, float* out) noexcept {
  const float d = half_to_float(b.d);
  for (std::size_t i = 0; i < super_block; ++i) {
    const std::size_t half = i / 128;
    const int low = (b.ql[half * 64 + i % 64] >> (i % 128 / 64 * 4)) & 0x0F;
    const int high = (b.qh[half * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
    const auto scale = b.scales[i / 16];
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low | (high << 4)) - 32);
  }
}

/// Expands block after block; each is copied out first because a file gives no alignment.
template <class Block, std::size_t Values>
void expand_all(std::span<const std::byte> blocks, std::span<float> out) noexcept {
  for (std::size_t i = 0; i < out.size() / Values; ++i) {
    Block b;
    std::memcpy(&b, blocks.data() + i * sizeof(Block), sizeof(Block));
    expand(b, out.data() + i * Values);
  }
}

/// Widens 16-bit values one by one.
template <float (*Widen)(std::uint16_t) noexcept>
void widen_all(std::span<const std::byte> values, std::span<float> out) noexcept {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, values.data() + i * sizeof(bits), sizeof(bits));
    out[i] = Widen(bits);
  }
}

} // namespace

void dequantise(tensor_type type, std::span<const std::byte> blocks, std::span<float> out) noexcept {
  assert(out.size() % info(type).block_values == 0);
  assert(blocks.size() >= row_bytes(type, out.size()));
  switch (type) {
  case tensor_type::f32:
    if (!out.empty())
      std::memcpy(out.data(), blocks.data(), out.size_bytes());
    return;
  case tensor_type::f16:
    return widen_all<half_to_float>(blocks, out);
  case tensor_type::bf16:
    return widen_all<bf16_to_float>(blocks, out);
  case tensor_type::q4_0:
    return expand_all<block_q4_0, small_block>(blocks, out);
  case tensor_type::q4_1:
    return expand_all<block_q4_1, small_block>(blocks, out);
  case tensor_type::q5_0:
    return expand_all<block_q5_0, small_block>(blocks, out);
  case tensor_type::q5_1:
    return expand_all<block_q5_1, small_block>(blocks, out);
  case tensor_type::q8_0:
    return expand_all<block_q8_0, small_block>(blocks, out);
  case tensor_type::q2_k:
    return expand_all<block_q2_k, super_block>(blocks, out);
  case tensor_type::q3_k:
    return expand_all<block_q3_k, super_block>(blocks, out);
  case tensor_type::q4_k:
    return expand_all<block_q4_k, super_block>(blocks, out);
  case tensor_type::q5_k:
    return expand_all<block_q5_k, super_block>(blocks, out);
  case tensor_type::q6_k:
    return expand_all<block_q6_k, super_block>(blocks, out);
  case tensor_type::iq4_nl:
    return expand_all<block_iq4_nl, small_block>(blocks, out);
  }
}

} // namespace tropilla
