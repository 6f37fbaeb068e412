/// AVX-512 intrinsics: the compiler's, or emulated ones where `TROPILLA_EMULATE_AVX512` is defined.
///
/// The `*_avx512.cpp` sources are compiled twice: for the machine that has AVX-512, in the namespace `avx512`, and with
/// SIMDe on AVX2 in `avx512_emulated`, so that tests cover them on machines that do not have it. `TROPILLA_AVX512_NS`
/// is the namespace. Intrinsics that SIMDe 0.7.4 lacks are here under names of our own.
#pragma once

#include <immintrin.h>

#ifdef TROPILLA_EMULATE_AVX512
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#endif

#ifndef TROPILLA_AVX512_NS
#define TROPILLA_AVX512_NS avx512
#endif

namespace tropilla::host::TROPILLA_AVX512_NS {

/// Sixteen halves to float32, exactly.
inline __m512 halves_to_floats(__m256i halves) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m512 low = _mm512_castps256_ps512(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
  return _mm512_insertf32x8(low, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), 1);
#else
  return _mm512_cvtph_ps(halves);
#endif
}

/// Sixteen floats to halves, rounded to nearest even.
inline __m256i floats_to_halves(__m512 x) noexcept {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#ifdef TROPILLA_EMULATE_AVX512
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  const __m128i low = _mm256_cvtps_ph(_mm512_castps512_ps256(x), nearest);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm256_cvtps_ph(high, nearest), 1);
#else
  return _mm512_cvtps_ph(x, nearest);
#endif
}

/// Sixteen floats to 32-bit integers, rounded to nearest even.
inline __m512i floats_to_ints(__m512 x) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  const __m512i low = _mm512_castsi256_si512(_mm256_cvtps_epi32(_mm512_castps512_ps256(x)));
  return _mm512_inserti64x4(low, _mm256_cvtps_epi32(high), 1);
#else
  return _mm512_cvtps_epi32(x);
#endif
}

/// Sixteen 32-bit integers to float32, rounded to nearest even.
inline __m512 ints_to_floats(__m512i x) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m512 low = _mm512_castps256_ps512(_mm256_cvtepi32_ps(_mm512_castsi512_si256(x)));
  return _mm512_insertf32x8(low, _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(x, 1)), 1);
#else
  return _mm512_cvtepi32_ps(x);
#endif
}

/// Sixteen unsigned bytes to 32-bit integers.
inline __m512i unsigned_bytes_to_ints(__m128i bytes) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m512i low = _mm512_castsi256_si512(_mm256_cvtepu8_epi32(bytes));
  return _mm512_inserti64x4(low, _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), 1);
#else
  return _mm512_cvtepu8_epi32(bytes);
#endif
}

/// Sixteen signed bytes to float32.
inline __m512 bytes_to_floats(__m128i bytes) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m512i low = _mm512_castsi256_si512(_mm256_cvtepi8_epi32(bytes));
  return ints_to_floats(_mm512_inserti64x4(low, _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)), 1));
#else
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#endif
}

/// Sixteen bfloat16 to float32, exactly.
inline __m512 bf16s_to_floats(__m256i upper) noexcept {
#ifdef TROPILLA_EMULATE_AVX512
  const __m512i low = _mm512_castsi256_si512(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(upper)));
  const __m512i wide = _mm512_inserti64x4(low, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(upper, 1)), 1);
#else
  const __m512i wide = _mm512_cvtepu16_epi32(upper);
#endif
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/// Sixteen floats to bfloat16, rounded to nearest even. @pre they are finite.
inline __m256i floats_to_bf16s(__m512 x) noexcept {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __m512i upper = _mm512_srli_epi32(rounded, 16);
#ifdef TROPILLA_EMULATE_AVX512
  const __m256i packed = _mm256_packus_epi32(_mm512_castsi512_si256(upper), _mm512_extracti64x4_epi64(upper, 1));
  return _mm256_permute4x64_epi64(packed, 0b11011000);
#else
  return _mm512_cvtepi32_epi16(upper);
#endif
}

} // namespace tropilla::host::TROPILLA_AVX512_NS
