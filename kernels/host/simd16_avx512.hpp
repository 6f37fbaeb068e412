/// Sixteen floats in one AVX-512 register: see `simd16_scalar.hpp` for what each function does.
#pragma once

#include "kernels/host/bf16.hpp"
#include "kernels/host/simd512.hpp"

#include <cstddef>
#include <cstdint>

namespace tropilla::host::TROPILLA_AVX512_NS {

struct simd16 {
  static constexpr std::size_t width = 16;
  /// Thirty-two registers: 12 rows of two vectors (24), 2 for the other operand; broadcasts come from memory.
  static constexpr std::size_t tile_rows = 12, wide_tile_rows = 12;

  struct vec {
    __m512 all;
  };

  using reg = __m512;
  static constexpr std::size_t regs = 1;
  static reg reg_of(float x) noexcept { return _mm512_set1_ps(x); }
  static reg load_reg(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static reg load_reg(const std::uint16_t* p) noexcept { return load_half(p).all; }
  static reg load_reg(const bf16* p) noexcept {
    return bf16s_to_floats(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static reg load_reg(const std::int8_t* p) noexcept {
    return bytes_to_floats(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static reg reg_of_half(const std::uint16_t* p) noexcept {
    return halves_to_floats(_mm256_set1_epi16(static_cast<short>(*p)));
  }
  static void store_reg(float* p, reg a) noexcept { _mm512_storeu_ps(p, a); }
  static reg mul_reg(reg a, reg b) noexcept { return _mm512_mul_ps(a, b); }
  static reg fma_reg(reg a, reg b, reg c) noexcept { return _mm512_fmadd_ps(a, b, c); }

  static vec zero() noexcept { return {_mm512_setzero_ps()}; }
  static vec set1(float x) noexcept { return {_mm512_set1_ps(x)}; }
  static vec load(const float* p) noexcept { return {_mm512_loadu_ps(p)}; }
  static vec load_n(const float* p, std::size_t n) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
    float lane[width];
    for (std::size_t i = 0; i < width; ++i)
      lane[i] = i < n ? p[i] : 0;
    return load(lane);
#else
    return {_mm512_maskz_loadu_ps(mask(n), p)};
#endif
  }
  static void store(float* p, vec a) noexcept {
    _mm512_storeu_ps(p, a.all);
  }
  static void store_n(float* p, vec a, std::size_t n) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
    float lane[width];
    store(lane, a);
    for (std::size_t i = 0; i < n; ++i)
      p[i] = lane[i];
#else
    _mm512_mask_storeu_ps(p, mask(n), a.all);
#endif
  }
  static vec load_half(const std::uint16_t* p) noexcept {
    return {halves_to_floats(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static void store_half(std::uint16_t* p, vec a) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), floats_to_halves(a.all));
  }
  static void store_bf16(bf16* p, vec a) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), floats_to_bf16s(a.all));
  }

  static vec add(vec a, vec b) noexcept {
    return {_mm512_add_ps(a.all, b.all)};
  }
  static vec sub(vec a, vec b) noexcept {
    return {_mm512_sub_ps(a.all, b.all)};
  }
  static vec mul(vec a, vec b) noexcept {
    return {_mm512_mul_ps(a.all, b.all)};
  }
  static vec div(vec a, vec b) noexcept {
    return {_mm512_div_ps(a.all, b.all)};
  }
  static vec fma(vec a, vec b, vec c) noexcept {
    return {_mm512_fmadd_ps(a.all, b.all, c.all)};
  }
  static vec max(vec a, vec b) noexcept {
    return {_mm512_max_ps(a.all, b.all)};
  }
  static vec min(vec a, vec b) noexcept {
    return {_mm512_min_ps(a.all, b.all)};
  }
  static vec abs(vec a) noexcept {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.all), magnitude))};
  }
  static vec where_at_least(vec x, float bound, vec value) noexcept {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.all, _mm512_set1_ps(bound), _CMP_GE_OQ), value.all)};
  }
  static vec first_n(std::size_t n, vec a, vec b) noexcept {
    return {_mm512_mask_mov_ps(b.all, mask(n), a.all)};
  }
  static vec times_power(vec a, vec shifted) noexcept {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.all), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.all), exponent))};
  }

  static float sum(vec a) noexcept {
    const __m256 eight = _mm256_add_ps(low(a.all), high(a.all));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(vec a) noexcept {
    const __m256 eight = _mm256_max_ps(low(a.all), high(a.all));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static float first(vec a) noexcept {
    return _mm_cvtss_f32(_mm512_castps512_ps128(a.all));
  }

  struct sums {
    std::int32_t low, high;
  };
  static sums store_bytes(std::int8_t* p, vec a, vec b) noexcept {
    const __m512i x = floats_to_ints(a.all), y = floats_to_ints(b.all);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + width), _mm512_cvtsepi32_epi8(y));
    const __m256i pairs = _mm256_hadd_epi32(_mm256_add_epi32(low(x), high(x)), _mm256_add_epi32(low(y), high(y)));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 4)); // lanes 0 and 2 hold the sums
    return {_mm_cvtsi128_si32(two), _mm_extract_epi32(two, 2)};
  }

  static vec rotate(vec x, const float* cosines, const float* sines) noexcept {
    const __m256 lower = rotate(low(x.all), _mm_loadu_ps(cosines), _mm_loadu_ps(sines));
    const __m256 upper = rotate(high(x.all), _mm_loadu_ps(cosines + 4), _mm_loadu_ps(sines + 4));
    return {_mm512_insertf32x8(_mm512_castps256_ps512(lower), upper, 1)};
  }

private:
  static __mmask16 mask(std::size_t n) noexcept {
    return static_cast<__mmask16>((1U << (n < width ? n : width)) - 1U);
  }
  static __m256 low(__m512 a) noexcept {
    return _mm512_castps512_ps256(a);
  }
  static __m256 high(__m512 a) noexcept {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
  }
  static __m256i low(__m512i a) noexcept {
    return _mm512_castsi512_si256(a);
  }
  static __m256i high(__m512i a) noexcept {
    return _mm512_extracti64x4_epi64(a, 1);
  }
  static __m256 rotate(__m256 x, __m128 cosines, __m128 sines) noexcept {
    const __m256 c = twice(cosines), s = twice(sines);
    return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0b10110001), s));
  }
  static __m256 twice(__m128 four) noexcept {
    return _mm256_set_m128(_mm_unpackhi_ps(four, four), _mm_unpacklo_ps(four, four));
  }
};

} // namespace tropilla::host::TROPILLA_AVX512_NS
