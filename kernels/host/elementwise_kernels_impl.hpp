/// Implements the kernels of `elementwise_kernels.hpp` over a type of sixteen floats (`simd16_*.hpp`).
///
/// Everything here depends on that type, so that no function compiled for one machine is used on another.
#pragma once

#include "kernels/host/elementwise_kernels.hpp"
#include "kernels/host/simd16_math.hpp"
#include "kernels/kv_cache.hpp"

#include <cmath>

namespace tropilla::host {

template <class V>
struct elementwise_kernels_of {
  using vec = typename V::vec;
  static constexpr std::size_t w = V::width;
  static_assert(activation_block == 2 * w && row_piece == 4 * w && kv_block == 2 * w);

  static vec load_some(const float* x, std::size_t at, std::size_t width) noexcept {
    if (at + w <= width)
      return V::load(x + at);
    return at < width ? V::load_n(x + at, width - at) : V::zero();
  }

  static float inverse_rms(const float* x, std::size_t width, float epsilon) noexcept {
    // Four sums hide the latency of the multiply-add; which value goes to which sum depends on its place alone.
    vec s0 = V::zero(), s1 = s0, s2 = s0, s3 = s0;
    std::size_t i = 0;
    for (; i + 4 * w <= width; i += 4 * w) {
      const vec a = V::load(x + i), b = V::load(x + i + w), c = V::load(x + i + 2 * w), d = V::load(x + i + 3 * w);
      s0 = V::fma(a, a, s0);
      s1 = V::fma(b, b, s1);
      s2 = V::fma(c, c, s2);
      s3 = V::fma(d, d, s3);
    }
    for (; i < width; i += w) {
      const vec a = load_some(x, i, width);
      s0 = V::fma(a, a, s0);
    }
    const float sum = V::sum(V::add(V::add(s0, s1), V::add(s2, s3)));
    return 1.0F / std::sqrt(sum / static_cast<float>(width) + epsilon);
  }

  /// The nearest integer, ties to even. @pre |x| < 2^22.
  static vec rounded(vec x) noexcept {
    const vec shift = V::set1(0x1.8p23F);
    return V::sub(V::add(x, shift), shift);
  }

  /// Stores 32 values as int8 with their scale and sums.
  static void store_block(vec a, vec b, std::size_t block, const row_target& out) noexcept {
    // Below, 127 / largest would overflow, and the block's part in any product is nothing.
    constexpr float smallest = 1e-36F;
    const float largest = V::largest(V::max(V::abs(a), V::abs(b)));
    const bool empty = !(largest >= smallest);
    const float scale = empty ? 0 : largest / 127.0F;
    const vec inverse = V::set1(empty ? 0 : 127.0F / largest);
    const vec qa = V::mul(a, inverse), qb = V::mul(b, inverse);
    const auto sums = V::store_bytes(out.q + block * activation_block, qa, qb);
    out.scale[block] = scale;
    out.minus16[2 * block] = -sums.low;
    out.minus16[2 * block + 1] = -sums.high;
    out.minus32[block] = -(sums.low + sums.high);
    out.sum16[2 * block] = scale * static_cast<float>(sums.low);
    out.sum16[2 * block + 1] = scale * static_cast<float>(sums.high);
    out.sum32[block] = scale * static_cast<float>(sums.low + sums.high);
    if (out.rest != 0) {
      const vec back = V::set1(-scale);
      store_block(V::fma(rounded(qa), back, a), V::fma(rounded(qb), back, b), block, rest_of(out));
    }
  }

  /// `value(at)` gives the sixteen values from `at` on, zeros after the width.
  template <class F>
  static void store_pieces(std::size_t first, std::size_t last, const row_target& out, F&& value) noexcept {
    for (std::size_t block = first * 2; block < last * 2; ++block) {
      const std::size_t at = block * activation_block;
      const vec a = value(at), b = value(at + w);
      if (out.full != nullptr) {
        if (at < out.full_stride)
          V::store(out.full + at, a);
        if (at + w < out.full_stride)
          V::store(out.full + at + w, b);
      }
      if (out.q != nullptr)
        store_block(a, b, block, out);
    }
  }

  static void store_scaled(const float* x, float factor, const float* weight, std::size_t width, std::size_t first,
                           std::size_t last, const row_target& out) noexcept {
    const vec f = V::set1(factor);
    store_pieces(first, last, out, [&](std::size_t at) {
      return V::mul(V::mul(load_some(x, at, width), f), load_some(weight, at, width));
    });
  }

  static void store_plain(const float* x, std::size_t width, std::size_t first, std::size_t last,
                          const row_target& out) noexcept {
    store_pieces(first, last, out, [&](std::size_t at) { return load_some(x, at, width); });
  }

  static void store_swiglu(const float* gate, const float* up, std::size_t width, std::size_t first, std::size_t last,
                           const row_target& out) noexcept {
    const vec one = V::set1(1);
    store_pieces(first, last, out, [&](std::size_t at) {
      const vec g = load_some(gate, at, width);
      const vec e = simd16_math<V>::exp(V::sub(V::zero(), g));
      return V::mul(V::div(g, V::add(one, e)), load_some(up, at, width));
    });
  }

  static void rotate(const float* in, float* out, std::size_t size, std::size_t dims, const float* cosines,
                     const float* sines) noexcept {
    std::size_t i = 0;
    for (; i + w <= dims; i += w)
      V::store(out + i, V::rotate(V::load(in + i), cosines + i / 2, sines + i / 2));
    if (i < dims) {
      float c[w / 2] = {}, s[w / 2] = {};
      for (std::size_t pair = i / 2; pair < dims / 2; ++pair) {
        c[pair - i / 2] = cosines[pair];
        s[pair - i / 2] = sines[pair];
      }
      V::store_n(out + i, V::rotate(V::load_n(in + i, dims - i), c, s), dims - i);
    }
    if (in != out)
      for (i = dims; i < size; ++i)
        out[i] = in[i];
  }

  static void to_half(const float* in, std::uint16_t* out, std::size_t size) noexcept {
    constexpr float largest = 65504;
    const vec high = V::set1(largest), low = V::set1(-largest);
    const auto clamped = [&](vec x) { return V::max(low, V::min(high, x)); };
    std::size_t i = 0;
    for (; i + w <= size; i += w)
      V::store_half(out + i, clamped(V::load(in + i)));
    if (i < size) {
      std::uint16_t rest[w];
      V::store_half(rest, clamped(V::load_n(in + i, size - i)));
      for (std::size_t j = 0; i + j < size; ++j)
        out[i + j] = rest[j];
    }
  }

  static void to_bf16(const float* in, bf16* out, std::size_t size) noexcept {
    const vec high = V::set1(0x1.FEp127F), low = V::set1(-0x1.FEp127F); // the largest bfloat16
    const auto clamped = [&](vec x) { return V::max(low, V::min(high, x)); };
    std::size_t i = 0;
    for (; i + w <= size; i += w)
      V::store_bf16(out + i, clamped(V::load(in + i)));
    if (i < size) {
      bf16 rest[w];
      V::store_bf16(rest, clamped(V::load_n(in + i, size - i)));
      for (std::size_t j = 0; i + j < size; ++j)
        out[i + j] = rest[j];
    }
  }

  static void to_q8(const float* in, std::int8_t* out, std::uint16_t* scales, std::size_t size) noexcept {
    const vec high = V::set1(127), low = V::set1(-127);
    for (std::size_t at = 0; at < size; at += kv_block) {
      const vec a = load_some(in, at, size), b = load_some(in, at + w, size);
      const float largest = V::largest(V::max(V::abs(a), V::abs(b)));
      std::uint16_t half[w];
      V::store_half(half, V::min(V::set1(largest / 127.0F), V::set1(65504)));
      const float scale = V::first(V::load_half(half));
      scales[at / kv_block] = half[0];
      const vec inverse = V::set1(scale > 0 ? 1.0F / scale : 0);
      // Rounding the scale down may leave more than 127 steps. Not a number becomes a number.
      const auto steps = [&](vec x) { return V::min(V::max(V::mul(x, inverse), low), high); };
      if (at + kv_block <= size) {
        (void)V::store_bytes(out + at, steps(a), steps(b));
      } else {
        std::int8_t rest[kv_block];
        (void)V::store_bytes(rest, steps(a), steps(b));
        for (std::size_t j = 0; at + j < size; ++j)
          out[at + j] = rest[j];
      }
    }
  }

  static constexpr elementwise_kernels table{inverse_rms, store_scaled, store_plain, store_swiglu,
                                             rotate,      to_half,      to_bf16,     to_q8};
};

} // namespace tropilla::host
