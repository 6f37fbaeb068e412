/// Sixteen floats as plain C++: the reference of what `simd16_avx2.hpp` and `simd16_avx512.hpp` do.
///
/// The kernels of rows and of attention are written once over such a type. As each has sixteen lanes, fuses the same
/// multiplications with the same additions and adds lanes up in the same order, all give the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/host/bf16.hpp"
#include "kernels/tensor_type.hpp"

namespace tropilla::host::scalar {

struct simd16 {
  static constexpr std::size_t width = 16;
  /// Query vectors of an attention tile, and the largest number of them with which a tile is two vectors wide.
  static constexpr std::size_t tile_rows = 4, wide_tile_rows = 4;

  struct vec {
    float lane[width];
  };

  /// The contents of one register: `regs` of them make a vector. Kernels that count registers work on these.
  using reg = vec;
  static constexpr std::size_t regs = 1;
  static reg reg_of(float x) noexcept { return set1(x); }
  static reg load_reg(const float* p) noexcept { return load(p); }
  static reg load_reg(const std::uint16_t* p) noexcept { return load_half(p); }
  static reg load_reg(const bf16* p) noexcept {
    return make([p](std::size_t i) { return bf16_to_float(static_cast<std::uint16_t>(p[i])); });
  }
  static reg load_reg(const std::int8_t* p) noexcept {
    return make([p](std::size_t i) { return static_cast<float>(p[i]); });
  }
  static reg reg_of_half(const std::uint16_t* p) noexcept { return set1(half_to_float(*p)); }
  static void store_reg(float* p, reg a) noexcept { store(p, a); }
  static reg mul_reg(reg a, reg b) noexcept { return mul(a, b); }
  static reg fma_reg(reg a, reg b, reg c) noexcept { return fma(a, b, c); }

  static vec zero() noexcept { return set1(0); }
  static vec set1(float x) noexcept {
    return make([x](std::size_t) { return x; });
  }
  static vec load(const float* p) noexcept {
    return make([p](std::size_t i) { return p[i]; });
  }
  /// The first `n` floats; zeros after them.
  static vec load_n(const float* p, std::size_t n) noexcept {
    return make([p, n](std::size_t i) { return i < n ? p[i] : 0; });
  }
  static void store(float* p, vec a) noexcept { std::memcpy(p, a.lane, sizeof(a.lane)); }
  static void store_n(float* p, vec a, std::size_t n) noexcept { std::memcpy(p, a.lane, n * sizeof(float)); }
  static vec load_half(const std::uint16_t* p) noexcept {
    return make([p](std::size_t i) { return half_to_float(p[i]); });
  }
  static void store_half(std::uint16_t* p, vec a) noexcept {
    for (std::size_t i = 0; i < width; ++i)
      p[i] = float_to_half(a.lane[i]);
  }
  /// Rounds to nearest even. @pre the values are finite.
  static void store_bf16(bf16* p, vec a) noexcept {
    for (std::size_t i = 0; i < width; ++i)
      p[i] = static_cast<bf16>(float_to_bf16(a.lane[i]));
  }

  static vec add(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
  }
  static vec sub(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
  }
  static vec mul(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
  }
  static vec div(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] / b.lane[i]; });
  }
  /// `a * b + c`, rounded once.
  static vec fma(vec a, vec b, vec c) noexcept {
    return make([&](std::size_t i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  /// The second operand when they do not compare.
  static vec max(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static vec min(vec a, vec b) noexcept {
    return make([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static vec abs(vec a) noexcept {
    return make([&](std::size_t i) { return std::fabs(a.lane[i]); });
  }
  /// `value` where `x >= bound`, else 0.
  static vec where_at_least(vec x, float bound, vec value) noexcept {
    return make([&](std::size_t i) { return x.lane[i] >= bound ? value.lane[i] : 0; });
  }
  /// `a` in the first `n` lanes, `b` after them.
  static vec first_n(std::size_t n, vec a, vec b) noexcept {
    return make([&](std::size_t i) { return i < n ? a.lane[i] : b.lane[i]; });
  }
  /// `a * 2^n`, where `shifted` holds n as the low bits of a float (1.5 * 2^23 + n).
  static vec times_power(vec a, vec shifted) noexcept {
    return make([&](std::size_t i) {
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(a.lane[i]) +
                                  (std::bit_cast<std::uint32_t>(shifted.lane[i]) << 23));
    });
  }

  /// Lanes are added in halves: 8 and 8, 4 and 4, 2 and 2, 1 and 1.
  static float sum(vec a) noexcept {
    for (std::size_t half = width / 2; half > 0; half /= 2)
      for (std::size_t i = 0; i < half; ++i)
        a.lane[i] += a.lane[i + half];
    return a.lane[0];
  }
  static float largest(vec a) noexcept {
    float m = a.lane[0];
    for (const float x : a.lane)
      m = x > m ? x : m;
    return m;
  }
  static float first(vec a) noexcept { return a.lane[0]; }

  /// Rounds two vectors to nearest even int8 and stores them; the sums of each. @pre |a|, |b| <= 127.
  struct sums {
    std::int32_t low, high;
  };
  static sums store_bytes(std::int8_t* p, vec a, vec b) noexcept {
    sums s{0, 0};
    for (std::size_t i = 0; i < width; ++i) {
      p[i] = static_cast<std::int8_t>(std::nearbyint(a.lane[i]));
      p[width + i] = static_cast<std::int8_t>(std::nearbyint(b.lane[i]));
      s.low += p[i];
      s.high += p[width + i];
    }
    return s;
  }

  /// Rotates eight pairs by the angles whose cosines and sines are given.
  static vec rotate(vec x, const float* cosines, const float* sines) noexcept {
    return make([&](std::size_t i) {
      const float c = cosines[i / 2], s = sines[i / 2];
      return i % 2 == 0 ? std::fma(x.lane[i], c, -(x.lane[i + 1] * s)) : std::fma(x.lane[i], c, x.lane[i - 1] * s);
    });
  }

private:
  template <class F>
  static vec make(F&& f) noexcept {
    vec out;
    for (std::size_t i = 0; i < width; ++i)
      out.lane[i] = f(i);
    return out;
  }
};

} // namespace tropilla::host::scalar
