// Converts float32 to blocks. Q4_0 to Q8_0 give the bytes that ggml's reference quantisers give; K types and IQ4_NL
// take their scales directly from each block's range instead of searching for the best ones.
//
// Loops are written so that the compiler turns them into vector code: synthetic models of billions of weights
// are quantised here.
#include "kernels/tensor_type.hpp"

#include "kernels/block_formats.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace tropilla {
namespace {

using namespace formats;

constexpr float largest_half = 65504.0F;

/// Rounds to half, saturating: an infinite scale would turn a block into NaN.
half_bits to_scale(float value) noexcept {
  return float_to_half(std::clamp(value, -largest_half, largest_half));
}

/// 1 / d, or 0 where that is no number to multiply with.
float inverse(float d) noexcept {
  const float id = 1.0F / d;
  return std::abs(id) <= std::numeric_limits<float>::max() ? id : 0.0F;
}

struct range {
  float low;
  float high;

  [[nodiscard]] float magnitude() const noexcept { return std::max(high, -low); }
};

/// The smallest and the largest of `Count` values. Independent minima and maxima, as many as a vector register has.
template <std::size_t Count>
range range_of(const float* x) noexcept {
  constexpr std::size_t width = 8;
  static_assert(Count % width == 0);
  std::array<float, width> low;
  std::array<float, width> high;
  std::copy_n(x, width, low.begin());
  std::copy_n(x, width, high.begin());
  for (std::size_t i = width; i < Count; i += width)
    for (std::size_t l = 0; l < width; ++l) {
      low[l] = x[i + l] < low[l] ? x[i + l] : low[l];
      high[l] = x[i + l] > high[l] ? x[i + l] : high[l];
    }
  return {*std::min_element(low.begin(), low.end()), *std::max_element(high.begin(), high.end())};
}

/// The value of greatest magnitude, with its sign; of two, the first.
template <std::size_t Count>
float signed_extreme(const float* x) noexcept {
  const range r = range_of<Count>(x);
  if (-r.low != r.high)
    return -r.low > r.high ? r.low : r.high;
  return *std::find_if(x, x + Count, [&](float v) { return std::abs(v) == r.high; });
}

/// `floor(x * factor + offset)` held between 0 and `top`. Also defined for NaN, which gives 0.
int level(float x, float factor, float offset, float top) noexcept {
  const float shifted = x * factor + offset;
  const float raised = shifted > 0.0F ? shifted : 0.0F;
  return static_cast<int>(raised < top ? raised : top);
}

template <std::size_t Count>
using levels = std::array<std::uint8_t, Count>;

template <std::size_t Count>
levels<Count> levels_of(const float* x, float factor, float offset, float top) noexcept {
  levels<Count> q;
  for (std::size_t i = 0; i < Count; ++i)
    q[i] = static_cast<std::uint8_t>(level(x[i], factor, offset, top));
  return q;
}

/// Stores nibbles: the low ones are the first half's, the high ones the second half's.
void store_nibbles(const levels<small_block>& q, std::uint8_t* qs) noexcept {
  for (std::size_t j = 0; j < small_block / 2; ++j)
    qs[j] = static_cast<std::uint8_t>((q[j] & 0x0F) | ((q[j + small_block / 2] & 0x0F) << 4));
}

void store_fifth_bits(const levels<small_block>& q, std::uint8_t* qh) noexcept {
  for (std::size_t byte = 0; byte < 4; ++byte) {
    unsigned bits = 0;
    for (std::size_t i = 0; i < 8; ++i)
      bits |= static_cast<unsigned>(q[8 * byte + i] >> 4) << i;
    qh[byte] = static_cast<std::uint8_t>(bits);
  }
}

void fill(block_q4_0& b, const float* x) noexcept {
  const float d = signed_extreme<small_block>(x) / -8.0F;
  b.d = to_scale(d);
  store_nibbles(levels_of<small_block>(x, inverse(d), 8.5F, 15.0F), b.qs);
}

void fill(block_q5_0& b, const float* x) noexcept {
  const float d = signed_extreme<small_block>(x) / -16.0F;
  b.d = to_scale(d);
  const auto q = levels_of<small_block>(x, inverse(d), 16.5F, 31.0F);
  store_nibbles(q, b.qs);
  store_fifth_bits(q, b.qh);
}

/// Fills an IQ4_NL block: the value of greatest magnitude becomes the codebook's -127, each value the nearest of the
/// codebook.
void fill(block_iq4_nl& b, const float* x) noexcept {
  const float d = signed_extreme<small_block>(x) / float{iq4_nl_values.front()};
  const float id = inverse(d);
  b.d = to_scale(d);
  levels<small_block> q{};
  for (std::size_t step = 1; step < iq4_nl_values.size(); ++step) {
    const float middle = 0.5F * static_cast<float>(iq4_nl_values[step - 1] + iq4_nl_values[step]);
    for (std::size_t i = 0; i < small_block; ++i)
      q[i] = static_cast<std::uint8_t>(q[i] + (x[i] * id > middle ? 1 : 0));
  }
  store_nibbles(q, b.qs);
}

/// Levels above the block's minimum: what Q4_1 and Q5_1 store.
levels<small_block> levels_above(const float* x, float low, float d, float top) noexcept {
  std::array<float, small_block> above;
  for (std::size_t i = 0; i < small_block; ++i)
    above[i] = x[i] - low;
  return levels_of<small_block>(above.data(), inverse(d), 0.5F, top);
}

void fill(block_q4_1& b, const float* x) noexcept {
  const range r = range_of<small_block>(x);
  const float d = (r.high - r.low) / 15.0F;
  b.d = to_scale(d);
  b.m = to_scale(r.low);
  store_nibbles(levels_above(x, r.low, d, 15.0F), b.qs);
}

void fill(block_q5_1& b, const float* x) noexcept {
  const range r = range_of<small_block>(x);
  const float d = (r.high - r.low) / 31.0F;
  b.d = to_scale(d);
  b.m = to_scale(r.low);
  const auto q = levels_above(x, r.low, d, 31.0F);
  store_nibbles(q, b.qs);
  store_fifth_bits(q, b.qh);
}

void fill(block_q8_0& b, const float* x) noexcept {
  const float d = range_of<small_block>(x).magnitude() / 127.0F;
  const float id = inverse(d);
  b.d = to_scale(d);
  for (std::size_t i = 0; i < small_block; ++i) {
    // Half away from zero, as ggml rounds here; the part after the point is exact, so 0.49999997 stays below.
    const float scaled = x[i] * id;
    const float magnitude = std::abs(scaled) < 127.0F ? std::abs(scaled) : 127.0F;
    const int whole = static_cast<int>(magnitude);
    const int q = whole + static_cast<int>(magnitude - static_cast<float>(whole) >= 0.5F);
    b.qs[i] = static_cast<std::int8_t>(scaled < 0.0F ? -q : q);
  }
}

/// Scale and minimum of each sub-block in units of `d` and `dmin`, for the types that have both.
template <std::size_t Count>
struct sub_block_scales {
  half_bits d;
  half_bits dmin;
  std::array<std::uint8_t, Count> scale;
  std::array<std::uint8_t, Count> min;

  /// Values span `top_level` steps above `-min`; scales and mins go up to `top_scale`.
  sub_block_scales(const float* x, float top_level, float top_scale) noexcept {
    constexpr std::size_t size = super_block / Count;
    std::array<float, Count> scales;
    std::array<float, Count> mins;
    for (std::size_t s = 0; s < Count; ++s) {
      const range r = range_of<size>(x + s * size);
      mins[s] = std::max(0.0F, -r.low);
      scales[s] = std::max(0.0F, r.high + mins[s]) / top_level;
    }
    d = to_scale(*std::max_element(scales.begin(), scales.end()) / top_scale);
    dmin = to_scale(*std::max_element(mins.begin(), mins.end()) / top_scale);
    const float id = inverse(half_to_float(d));
    const float idmin = inverse(half_to_float(dmin));
    for (std::size_t s = 0; s < Count; ++s) {
      scale[s] = static_cast<std::uint8_t>(level(scales[s], id, 0.5F, top_scale));
      min[s] = static_cast<std::uint8_t>(level(mins[s], idmin, 0.5F, top_scale));
    }
  }

  /// Levels of all values under the scales as they will be read back.
  [[nodiscard]] levels<super_block> quantise(const float* x, float top_level) const noexcept {
    constexpr std::size_t size = super_block / Count;
    levels<super_block> q;
    for (std::size_t s = 0; s < Count; ++s) {
      const float id = inverse(half_to_float(d) * static_cast<float>(scale[s]));
      const float lift = half_to_float(dmin) * static_cast<float>(min[s]);
      for (std::size_t i = s * size; i < (s + 1) * size; ++i)
        q[i] = static_cast<std::uint8_t>(level(x[i] + lift, id, 0.5F, top_level));
    }
    return q;
  }
};

/// The low two bits of each value as Q2_K and Q3_K keep them.
void store_two_bits(const levels<super_block>& q, std::uint8_t* qs) noexcept {
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t l = 0; l < 32; ++l) {
      const std::uint8_t* at = q.data() + 128 * half + l;
      qs[32 * half + l] =
          static_cast<std::uint8_t>((at[0] & 3) | ((at[32] & 3) << 2) | ((at[64] & 3) << 4) | ((at[96] & 3) << 6));
    }
}

void fill(block_q2_k& b, const float* x) noexcept {
  const sub_block_scales<16> scales(x, 3.0F, 15.0F);
  b.d = scales.d;
  b.dmin = scales.dmin;
  for (std::size_t s = 0; s < 16; ++s)
    b.scales[s] = static_cast<std::uint8_t>(scales.scale[s] | (scales.min[s] << 4));
  store_two_bits(scales.quantise(x, 3.0F), b.qs);
}

/// Signed scales of sixteen sub-blocks, for the types without a minimum.
struct signed_scales {
  half_bits d;
  std::array<int, 16> scale;

  /// The extreme of a sub-block maps to `bottom_level` (negative); the extreme scale to `bottom_scale` (negative).
  signed_scales(const float* x, float bottom_level, float bottom_scale) noexcept {
    std::array<float, 16> scales;
    for (std::size_t s = 0; s < 16; ++s)
      scales[s] = signed_extreme<16>(x + 16 * s) / bottom_level;
    d = to_scale(signed_extreme<16>(scales.data()) / bottom_scale);
    const float id = inverse(half_to_float(d));
    for (std::size_t s = 0; s < 16; ++s)
      scale[s] =
          level(scales[s], id, 0.5F - bottom_scale, -2.0F * bottom_scale - 1.0F) + static_cast<int>(bottom_scale);
  }

  [[nodiscard]] levels<super_block> quantise(const float* x, float bottom_level) const noexcept {
    levels<super_block> q;
    for (std::size_t s = 0; s < 16; ++s) {
      const float id = inverse(half_to_float(d) * static_cast<float>(scale[s]));
      for (std::size_t i = 16 * s; i < 16 * (s + 1); ++i)
        q[i] = static_cast<std::uint8_t>(level(x[i], id, 0.5F - bottom_level, -2.0F * bottom_level - 1.0F));
    }
    return q;
  }
};

void fill(block_q3_k& b, const float* x) noexcept {
  const signed_scales scales(x, -4.0F, -32.0F);
  b = {};
  b.d = scales.d;
  for (std::size_t j = 0; j < 16; ++j) {
    const auto six = static_cast<unsigned>(scales.scale[j] + 32);
    b.scales[j % 8] = static_cast<std::uint8_t>(b.scales[j % 8] | ((six & 0x0FU) << (4 * (j / 8))));
    b.scales[8 + j % 4] = static_cast<std::uint8_t>(b.scales[8 + j % 4] | ((six >> 4) << (2 * (j / 4))));
  }
  const auto q = scales.quantise(x, -4.0F);
  store_two_bits(q, b.qs);
  for (std::size_t i = 0; i < super_block; ++i)
    b.hmask[i % 32] = static_cast<std::uint8_t>(b.hmask[i % 32] | ((q[i] >> 2) << (i / 32)));
}

/// Packs six-bit scales and mins: the inverse of `unpack_scale_min`.
void store_scale_min(const sub_block_scales<8>& s, std::uint8_t* packed) noexcept {
  for (std::size_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>(s.scale[j] | ((s.scale[j + 4] >> 4) << 6));
    packed[4 + j] = static_cast<std::uint8_t>(s.min[j] | ((s.min[j + 4] >> 4) << 6));
    packed[8 + j] = static_cast<std::uint8_t>((s.scale[j + 4] & 0x0F) | ((s.min[j + 4] & 0x0F) << 4));
  }
}

/// Low nibbles of sub-blocks in pairs, as Q4_K and Q5_K keep them.
void store_paired_nibbles(const levels<super_block>& q, std::uint8_t* qs) noexcept {
  for (std::size_t pair = 0; pair < 4; ++pair)
    for (std::size_t l = 0; l < 32; ++l)
      qs[32 * pair + l] = static_cast<std::uint8_t>((q[64 * pair + l] & 0x0F) | ((q[64 * pair + 32 + l] & 0x0F) << 4));
}

void fill(block_q4_k& b, const float* x) noexcept {
  const sub_block_scales<8> scales(x, 15.0F, 63.0F);
  b.d = scales.d;
  b.dmin = scales.dmin;
  store_scale_min(scales, b.scales);
  store_paired_nibbles(scales.quantise(x, 15.0F), b.qs);
}

void fill(block_q5_k& b, const float* x) noexcept {
  const sub_block_scales<8> scales(x, 31.0F, 63.0F);
  b = {};
  b.d = scales.d;
  b.dmin = scales.dmin;
  store_scale_min(scales, b.scales);
  const auto q = scales.quantise(x, 31.0F);
  store_paired_nibbles(q, b.qs);
  for (std::size_t i = 0; i < super_block; ++i)
    b.qh[i % 32] = static_cast<std::uint8_t>(b.qh[i % 32] | ((q[i] >> 4) << (i / 32)));
}

void fill(block_q6_k& b, const float* x) noexcept {
  const signed_scales scales(x, -32.0F, -128.0F);
  b.d = scales.d;
  for (std::size_t s = 0; s < 16; ++s)
    b.scales[s] = static_cast<std::int8_t>(scales.scale[s]);
  const auto q = scales.quantise(x, -32.0F);
  for (std::size_t half = 0; half < 2; ++half) {
    const std::uint8_t* at = q.data() + 128 * half;
    for (std::size_t l = 0; l < 64; ++l)
      b.ql[64 * half + l] = static_cast<std::uint8_t>((at[l] & 0x0F) | ((at[l + 64] & 0x0F) << 4));
    for (std::size_t l = 0; l < 32; ++l)
      b.qh[32 * half + l] = static_cast<std::uint8_t>((at[l] >> 4) | ((at[l + 32] >> 4) << 2) |
                                                      ((at[l + 64] >> 4) << 4) | ((at[l + 96] >> 4) << 6));
  }
}

template <class Block, std::size_t Values>
void fill_all(std::span<const float> values, std::span<std::byte> blocks) noexcept {
  for (std::size_t i = 0; i < values.size() / Values; ++i) {
    Block b;
    fill(b, values.data() + i * Values);
    std::memcpy(blocks.data() + i * sizeof(Block), &b, sizeof(Block));
  }
}

template <std::uint16_t (*Narrow)(float) noexcept>
void narrow_all(std::span<const float> values, std::span<std::byte> out) noexcept {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = Narrow(values[i]);
    std::memcpy(out.data() + i * sizeof(bits), &bits, sizeof(bits));
  }
}

} // namespace

void quantise(tensor_type type, std::span<const float> values, std::span<std::byte> blocks) noexcept {
  assert(values.size() % info(type).block_values == 0);
  assert(blocks.size() >= row_bytes(type, values.size()));
  switch (type) {
  case tensor_type::f32:
    if (!values.empty())
      std::memcpy(blocks.data(), values.data(), values.size_bytes());
    return;
  case tensor_type::f16:
    return narrow_all<float_to_half>(values, blocks);
  case tensor_type::bf16:
    return narrow_all<float_to_bf16>(values, blocks);
  case tensor_type::q4_0:
    return fill_all<block_q4_0, small_block>(values, blocks);
  case tensor_type::q4_1:
    return fill_all<block_q4_1, small_block>(values, blocks);
  case tensor_type::q5_0:
    return fill_all<block_q5_0, small_block>(values, blocks);
  case tensor_type::q5_1:
    return fill_all<block_q5_1, small_block>(values, blocks);
  case tensor_type::q8_0:
    return fill_all<block_q8_0, small_block>(values, blocks);
  case tensor_type::q2_k:
    return fill_all<block_q2_k, super_block>(values, blocks);
  case tensor_type::q3_k:
    return fill_all<block_q3_k, super_block>(values, blocks);
  case tensor_type::q4_k:
    return fill_all<block_q4_k, super_block>(values, blocks);
  case tensor_type::q5_k:
    return fill_all<block_q5_k, super_block>(values, blocks);
  case tensor_type::q6_k:
    return fill_all<block_q6_k, super_block>(values, blocks);
  case tensor_type::iq4_nl:
    return fill_all<block_iq4_nl, small_block>(values, blocks);
  }
}

} // namespace tropilla
