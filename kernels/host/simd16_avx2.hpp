/// Sixteen floats in two AVX2 registers: see `simd16_scalar.hpp` for what each function does.
///
/// Included by sources that are compiled for AVX2 or more, each into a namespace of its own, so that no two of them
/// share a function that was compiled for different machines.
#pragma once

#include "kernels/host/bf16.hpp"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace tropilla::host::avx2 {

struct simd16 {
  static constexpr std::size_t width = 16;
  /// Sixteen registers: 6 rows of one vector (12) or 3 of two (12), 2 for the other operand, 1 for a broadcast.
  static constexpr std::size_t tile_rows = 6, wide_tile_rows = 3;

  struct vec {
    __m256 low, high;
  };

  using reg = __m256;
  static constexpr std::size_t regs = 2;
  static reg reg_of(float x) noexcept { return _mm256_set1_ps(x); }
  static reg load_reg(const float* p) noexcept { return _mm256_loadu_ps(p); }
  static reg load_reg(const std::uint16_t* p) noexcept {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static reg load_reg(const bf16* p) noexcept {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static reg load_reg(const std::int8_t* p) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static reg reg_of_half(const std::uint16_t* p) noexcept {
    return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(*p)));
  }
  static void store_reg(float* p, reg a) noexcept { _mm256_storeu_ps(p, a); }
  static reg mul_reg(reg a, reg b) noexcept { return _mm256_mul_ps(a, b); }
  static reg fma_reg(reg a, reg b, reg c) noexcept { return _mm256_fmadd_ps(a, b, c); }

  static vec zero() noexcept { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static vec set1(float x) noexcept { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static vec load(const float* p) noexcept { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static vec load_n(const float* p, std::size_t n) noexcept {
    return {_mm256_maskload_ps(p, mask(n)), n > 8 ? _mm256_maskload_ps(p + 8, mask(n - 8)) : _mm256_setzero_ps()};
  }
  static void store(float* p, vec a) noexcept {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
  }
  static void store_n(float* p, vec a, std::size_t n) noexcept {
    _mm256_maskstore_ps(p, mask(n), a.low);
    if (n > 8)
      _mm256_maskstore_ps(p + 8, mask(n - 8), a.high);
  }
  static vec load_half(const std::uint16_t* p) noexcept {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  static void store_half(std::uint16_t* p, vec a) noexcept {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    auto* q = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(q, _mm256_cvtps_ph(a.low, nearest));
    _mm_storeu_si128(q + 1, _mm256_cvtps_ph(a.high, nearest));
  }
  static void store_bf16(bf16* p, vec a) noexcept {
    // Packing works within halves of a register, so groups of four come out as 0 2 1 3.
    const __m256i packed = _mm256_packus_epi32(upper_half(a.low), upper_half(a.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11011000));
  }

  static vec add(vec a, vec b) noexcept { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static vec sub(vec a, vec b) noexcept { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static vec mul(vec a, vec b) noexcept { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static vec div(vec a, vec b) noexcept { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static vec fma(vec a, vec b, vec c) noexcept {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static vec max(vec a, vec b) noexcept { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static vec min(vec a, vec b) noexcept { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static vec abs(vec a) noexcept {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  static vec where_at_least(vec x, float bound, vec value) noexcept {
    const __m256 b = _mm256_set1_ps(bound);
    return {_mm256_and_ps(_mm256_cmp_ps(x.low, b, _CMP_GE_OQ), value.low),
            _mm256_and_ps(_mm256_cmp_ps(x.high, b, _CMP_GE_OQ), value.high)};
  }
  static vec first_n(std::size_t n, vec a, vec b) noexcept {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(mask(n))),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(mask(n > 8 ? n - 8 : 0)))};
  }
  static vec times_power(vec a, vec shifted) noexcept {
    return {times_power(a.low, shifted.low), times_power(a.high, shifted.high)};
  }

  static float sum(vec a) noexcept { return sum(_mm256_add_ps(a.low, a.high)); }
  static float largest(vec a) noexcept { return largest(_mm256_max_ps(a.low, a.high)); }
  static float first(vec a) noexcept { return _mm256_cvtss_f32(a.low); }

  struct sums {
    std::int32_t low, high;
  };
  static sums store_bytes(std::int8_t* p, vec a, vec b) noexcept {
    const __m256i a0 = _mm256_cvtps_epi32(a.low), a1 = _mm256_cvtps_epi32(a.high);
    const __m256i b0 = _mm256_cvtps_epi32(b.low), b1 = _mm256_cvtps_epi32(b.high);
    // Packing works within halves of a register, so groups of four bytes come out as 0 2 4 6 1 3 5 7.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a0, a1), _mm256_packs_epi32(b0, b1));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, order));
    const __m256i pairs = _mm256_hadd_epi32(_mm256_add_epi32(a0, a1), _mm256_add_epi32(b0, b1));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 4)); // lanes 0 and 2 hold the sums
    return {_mm_cvtsi128_si32(two), _mm_extract_epi32(two, 2)};
  }

  static vec rotate(vec x, const float* cosines, const float* sines) noexcept {
    return {rotate(x.low, _mm_loadu_ps(cosines), _mm_loadu_ps(sines)),
            rotate(x.high, _mm_loadu_ps(cosines + 4), _mm_loadu_ps(sines + 4))};
  }

  // On eight lanes.
  static __m256i mask(std::size_t n) noexcept {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)), lanes);
  }
  /// The upper 16 bits, rounded to nearest even.
  static __m256i upper_half(__m256 a) noexcept {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  }
  static __m256 times_power(__m256 a, __m256 shifted) noexcept {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
  }
  static float sum(__m256 eight) noexcept {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(__m256 eight) noexcept {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static __m256 rotate(__m256 x, __m128 cosines, __m128 sines) noexcept {
    const __m256 c = twice(cosines), s = twice(sines);
    return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0b10110001), s));
  }
  static __m256 twice(__m128 four) noexcept {
    return _mm256_set_m128(_mm_unpackhi_ps(four, four), _mm_unpacklo_ps(four, four));
  }
};

} // namespace tropilla::host::avx2
