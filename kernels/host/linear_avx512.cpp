// Matrix products with AVX-512 and VNNI.
//
// `vpdpbusd` adds four products of unsigned weights and signed inputs to each of sixteen 32-bit sums, exactly: a quad
// of sixteen rows is one vector, the input's four columns are broadcast from memory. A block of one input row is eight
// of them, a conversion and two or three multiply-adds.
#include "kernels/host/linear_impl.hpp"
#include "kernels/host/simd512.hpp"
#include "memory/rounding.hpp"

#include <bit>
#include <cstring>

namespace tropilla::host::TROPILLA_AVX512_NS {
namespace {

using namespace packed;

// Emulated intrinsics are macros that mind the commas of template arguments: functions of our own don't.
[[gnu::always_inline]] inline __m512i load(const std::byte* p) {
  return _mm512_loadu_si512(p);
}
[[gnu::always_inline]] inline void store(std::byte* p, __m512i v) {
  _mm512_storeu_si512(p, v);
}
/// `sums[i] += weights[4 i + j] * inputs[4 i + j]` over j, weights unsigned.
#ifdef TROPILLA_EMULATE_AVX512
// One function for the hundreds of places: inlined, SIMDe's version takes minutes to compile.
[[gnu::noinline]] __m512i add_products(const __m512i& sums, const __m512i& weights, const __m512i& inputs) {
  std::int32_t total[16];
  std::uint8_t w[64];
  std::int8_t x[64];
  std::memcpy(total, &sums, sizeof(total));
  std::memcpy(w, &weights, sizeof(w));
  std::memcpy(x, &inputs, sizeof(x));
  for (int i = 0; i < 64; ++i)
    total[i / 4] += w[i] * x[i];
  __m512i out;
  std::memcpy(&out, total, sizeof(out));
  return out;
}
#else
[[gnu::always_inline]] inline __m512i add_products(__m512i sums, __m512i weights, __m512i inputs) {
  return _mm512_dpbusd_epi32(sums, weights, inputs);
}
#endif
[[gnu::always_inline]] inline __m512i broadcast_quad(const std::int8_t* x) {
  std::int32_t four = 0;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}
[[gnu::always_inline]] inline __m512i bits(int mask) {
  return _mm512_set1_epi8(static_cast<char>(mask));
}

/// Bits of every byte moved up by `N` (down where negative); bits that cross into a neighbour are for a mask to remove.
template <int N>
[[gnu::always_inline]] inline __m512i shifted(__m512i v) {
  if constexpr (N > 0)
    return _mm512_slli_epi16(v, N);
  else if constexpr (N < 0)
    return _mm512_srli_epi16(v, -N);
  else
    return v;
}

/// The codebook's value of each byte, which is an index.
[[gnu::always_inline]] inline __m512i looked_up(__m512i indices) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codebook.data()));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), indices);
}

/// Quad `G` of a packed block, unpacked.
template <tensor_type T, int G>
[[gnu::always_inline]] inline __m512i quad_values(const std::byte* block) {
  constexpr format f = format_of(T);
  if constexpr (f.bytes) {
    return load(block + G * vector_bytes);
  } else {
    __m512i q = _mm512_setzero_si512();
    if constexpr (f.nibbles)
      q = _mm512_and_si512(shifted < G < 4 ? 0 : -4 > (load(block + G % 4 * vector_bytes)), bits(15));
    if constexpr (f.twos) {
      constexpr int to = f.nibbles ? 4 : 0;
      const __m512i v = load(block + f.twos_offset() + G / 4 * vector_bytes);
      q = _mm512_or_si512(q, _mm512_and_si512(shifted<to - G % 4 * 2>(v), bits(3 << to)));
    }
    if constexpr (f.ones) {
      constexpr int to = f.nibbles ? 4 : 2;
      q = _mm512_or_si512(q, _mm512_and_si512(shifted<to - G>(load(block + f.ones_offset())), bits(1 << to)));
    }
    if constexpr (f.codebook)
      q = looked_up(q);
    return q;
  }
}

[[gnu::always_inline]] inline __m512 halves(const std::byte* p) {
  return halves_to_floats(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline __m128i load_bytes(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
// Sixteen integers from unsigned bytes, signed bytes and unsigned 16-bit values.
#ifdef TROPILLA_EMULATE_AVX512
[[gnu::always_inline]] inline __m512i joined(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
[[gnu::always_inline]] inline __m512i from_u8(__m128i v) {
  return joined(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
[[gnu::always_inline]] inline __m512i from_i8(__m128i v) {
  return joined(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
[[gnu::always_inline]] inline __m512i from_u16(__m256i v) {
  return joined(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)),
                _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)));
}
#else
[[gnu::always_inline]] inline __m512i from_u8(__m128i v) {
  return _mm512_cvtepu8_epi32(v);
}
[[gnu::always_inline]] inline __m512i from_i8(__m128i v) {
  return _mm512_cvtepi8_epi32(v);
}
[[gnu::always_inline]] inline __m512i from_u16(__m256i v) {
  return _mm512_cvtepu16_epi32(v);
}
#endif
[[gnu::always_inline]] inline __m512i masked(__m512i v, int shift, int mask) {
  return _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(mask));
}
[[gnu::always_inline]] inline __m512 times(__m512 a, __m512i b) {
  return _mm512_mul_ps(a, ints_to_floats(b));
}
[[gnu::always_inline]] inline __m512 negated(__m512 a) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}

struct scales {
  __m512 scale;
  __m512 minimum;
};

/// Scale and minimum `s` of a unit: `packed::scale_at`, sixteen rows at once.
template <tensor_type T>
[[gnu::always_inline]] inline scales unit_scales(const std::byte* unit, std::size_t s) {
  using enum tensor_type;
  const __m512 d = halves(unit);
  const __m512 none = _mm512_setzero_ps();
  const auto bytes = [&](std::size_t header, std::size_t j) {
    return from_u8(load_bytes(unit + header + j * panel_rows));
  };
  if constexpr (T == q4_1 || T == q5_1) {
    return {d, halves(unit + halves_bytes)};
  } else if constexpr (T == q2_k) {
    const __m512i both = bytes(2 * halves_bytes, s);
    return {times(d, masked(both, 0, 15)), negated(times(halves(unit + halves_bytes), masked(both, 4, 15)))};
  } else if constexpr (T == q3_k) {
    const __m512i low = masked(bytes(halves_bytes, s / 2), static_cast<int>(s % 2 * 4), 15);
    const __m512i high = masked(bytes(halves_bytes, 8 + s / 4), static_cast<int>(s % 4 * 2), 3);
    const __m512i six = _mm512_or_si512(low, _mm512_slli_epi32(high, 4));
    return {times(d, _mm512_sub_epi32(six, _mm512_set1_epi32(32))), none};
  } else if constexpr (T == q4_k || T == q5_k) {
    const __m512i a = bytes(2 * halves_bytes, s);
    const __m512i low = masked(bytes(2 * halves_bytes, 8 + s / 2), static_cast<int>(s % 2 * 4), 15);
    const __m512i min = _mm512_or_si512(low, _mm512_slli_epi32(masked(a, 6, 3), 4));
    return {times(d, masked(a, 0, 63)), negated(times(halves(unit + halves_bytes), min))};
  } else if constexpr (T == q6_k) {
    return {times(d, from_i8(load_bytes(unit + halves_bytes + s * panel_rows))), none};
  } else {
    return {d, none};
  }
}

/// The first value of a dot product, which takes the zero point off; `minus` is -sum(x) of its inputs.
template <values_format V>
[[gnu::always_inline]] inline __m512i dot_start(const std::int32_t* minus) {
  if constexpr (V.minimum)
    return _mm512_setzero_si512();
  else
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus), std::countr_zero(static_cast<unsigned>(V.zero_point)));
}

/// The step from dot products to the sums: see linear.hpp.
template <values_format V>
[[gnu::always_inline]] inline __m512 accumulated(__m512 acc, __m512i dot, const scales& w, __m512 scale, __m512 sum) {
  const __m512 product = _mm512_fmadd_ps(w.scale, _mm512_mul_ps(ints_to_floats(dot), scale), acc);
  if constexpr (V.minimum)
    return _mm512_fmadd_ps(w.minimum, sum, product);
  else
    return product;
}

/// Bytes that a single row's weights are fetched ahead: the processor's own prefetching ends at each page of 4 KiB, so
/// this reaches further. Q4_K 1.35 times and Q4_1 1.08 times as fast as without, and 1.11 and 0.93 times with 1 KiB
/// (Zen 5, medians of seven pairs). What lies behind the weights is only fetched, never read.
constexpr std::size_t prefetch_distance = 4096;

template <tensor_type T>
void vector(const std::byte* panel, std::size_t columns, const quantised_rows& x, float* sums) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  constexpr int quads = 8 / scale_count;
  __m512 acc = _mm512_setzero_ps();
  const std::int8_t* q = x.q;
  const float* scale = x.scale;
  const float* sum = input_sums<values_of(T)>(x);
  const std::int32_t* minus = input_minus<values_of(T)>(x);
  for (std::size_t u = 0; u < columns / f.unit_columns(); ++u, panel += f.unit_bytes()) {
    const std::byte* block = panel + f.header_bytes;
    for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), q += block_columns, ++scale) {
      unrolled<static_cast<int>(f.block_bytes() / vector_bytes)>([&](auto i) __attribute__((always_inline)) {
        __builtin_prefetch(block + prefetch_distance + i * vector_bytes);
      });
      unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
        // Two sums, so that the additions' latency does not add up.
        __m512i dot[2] = {dot_start<values_of(T)>(minus + s), _mm512_setzero_si512()};
        unrolled<quads>([&](auto i) __attribute__((always_inline)) {
          constexpr int g = s * quads + i;
          dot[i % 2] = add_products(dot[i % 2], quad_values<T, g>(block), broadcast_quad(q + g * quad_columns));
        });
        acc =
            accumulated<values_of(T)>(acc, _mm512_add_epi32(dot[0], dot[1]), unit_scales<T>(panel, b * scale_count + s),
                                      _mm512_set1_ps(*scale), _mm512_set1_ps(sum[s]));
      });
      sum += scale_count;
      minus += scale_count;
    }
  }
  _mm512_storeu_ps(sums, acc);
}

/// Bytes of an unpacked block: values `[8 quads][16 rows][4]`, then scales and minimums, `[16]` each, per scale.
constexpr std::size_t tile_values_bytes = block_quads * vector_bytes;
template <values_format V>
constexpr std::size_t tile_scales_bytes = panel_rows * sizeof(float) * (V.minimum ? 2 : 1);
template <values_format V>
constexpr std::size_t tile_block_bytes = tile_values_bytes + V.block_scales* tile_scales_bytes<V>;

template <tensor_type T>
void unpack(const std::byte* panel, std::size_t first, std::size_t blocks, std::byte* tile) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  const std::byte* unit = panel + first / f.unit_blocks * f.unit_bytes();
  for (std::size_t u = 0; u < blocks / f.unit_blocks; ++u, unit += f.unit_bytes()) {
    const std::byte* block = unit + f.header_bytes;
    for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), tile += tile_block_bytes<values_of(T)>) {
      unrolled<8>([&](auto g)
                      __attribute__((always_inline)) { store(tile + g * vector_bytes, quad_values<T, g>(block)); });
      unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
        const scales w = unit_scales<T>(unit, b * scale_count + s);
        auto* at = reinterpret_cast<float*>(tile + tile_values_bytes + s * tile_scales_bytes<values_of(T)>);
        _mm512_storeu_ps(at, w.scale);
        if constexpr (f.minimum)
          _mm512_storeu_ps(at + panel_rows, w.minimum);
      });
    }
  }
}

template <values_format V>
[[gnu::always_inline]] inline scales tile_scales(const std::byte* tile, int s) {
  const auto* at = reinterpret_cast<const float*>(tile + tile_values_bytes + s * tile_scales_bytes<V>);
  if constexpr (V.minimum)
    return {_mm512_loadu_ps(at), _mm512_loadu_ps(at + panel_rows)};
  else
    return {_mm512_loadu_ps(at), _mm512_setzero_ps()};
}

/// `G` tiles, one behind the other, with `C` input rows; the sums of the second begin `next_sums` behind those of the
/// first. 2 G C of the 32 registers hold sums, and G C independent chains hide the latency of `vpdpbusd` (5 cycles, two
/// a cycle). With two tiles an input that was broadcast once serves both: one tile is bound by loads (a core loads two
/// vectors a cycle), two by multiplying.
template <values_format V, int C, int G>
void multiply_rows(const std::byte* tile, std::size_t blocks, const quantised_rows& x, float* sums,
                   std::size_t next_sums) {
  constexpr int scale_count = V.block_scales;
  constexpr int quads = 8 / scale_count;
  const std::size_t row_scales = x.padded / activation_block;
  const std::size_t next_tile = blocks * tile_block_bytes<V>;
  const float* input_sum = input_sums<V>(x);
  const std::int32_t* minus = input_minus<V>(x);
  __m512 acc[C][G];
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c) {
    TROPILLA_UNROLL
    for (int n = 0; n < G; ++n)
      acc[c][n] = _mm512_loadu_ps(sums + c * panel_rows + n * next_sums);
  }
  for (std::size_t b = 0; b < blocks; ++b, tile += tile_block_bytes<V>) {
    TROPILLA_UNROLL
    for (int s = 0; s < scale_count; ++s) {
      __m512i dot[C][G];
      TROPILLA_UNROLL
      for (int c = 0; c < C; ++c) {
        const __m512i start = dot_start<V>(minus + (c * row_scales + b) * scale_count + s);
        TROPILLA_UNROLL
        for (int n = 0; n < G; ++n)
          dot[c][n] = start;
      }
      TROPILLA_UNROLL
      for (int i = 0; i < quads; ++i) {
        const int g = s * quads + i;
        __m512i values[G];
        TROPILLA_UNROLL
        for (int n = 0; n < G; ++n)
          values[n] = load(tile + n * next_tile + g * vector_bytes);
        TROPILLA_UNROLL
        for (int c = 0; c < C; ++c) {
          const __m512i input = broadcast_quad(x.q + c * x.padded + b * block_columns + g * quad_columns);
          TROPILLA_UNROLL
          for (int n = 0; n < G; ++n)
            dot[c][n] = add_products(dot[c][n], values[n], input);
        }
      }
      scales w[G];
      TROPILLA_UNROLL
      for (int n = 0; n < G; ++n)
        w[n] = tile_scales<V>(tile + n * next_tile, s);
      TROPILLA_UNROLL
      for (int c = 0; c < C; ++c) {
        const std::size_t at = c * row_scales + b;
        const __m512 scale = _mm512_set1_ps(x.scale[at]);
        const __m512 sum = _mm512_set1_ps(input_sum[at * scale_count + s]);
        TROPILLA_UNROLL
        for (int n = 0; n < G; ++n)
          acc[c][n] = accumulated<V>(acc[c][n], dot[c][n], w[n], scale, sum);
      }
    }
  }
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c) {
    TROPILLA_UNROLL
    for (int n = 0; n < G; ++n)
      _mm512_storeu_ps(sums + c * panel_rows + n * next_sums, acc[c][n]);
  }
}

// Emulated and sanitized code is large and its compilation slow (two and a half minutes with ASan): two rows show the
// loops.
#if defined(TROPILLA_EMULATE_AVX512) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TROPILLA_TWO_ROWS
#endif

/// Input rows that meet one or two tiles at once.
#ifdef TROPILLA_TWO_ROWS
constexpr int max_rows[] = {2, 2};
#else
constexpr int max_rows[] = {8, 6};
#endif

/// The number of rows at a time for the rest that `C` leaves, so that little is left for one or two, whose chains are
/// too few: 16 rows go as 6, 6 and 4.
constexpr int fewer_rows(int c) {
  return c > 4 ? 4 : c / 2;
}

/// Multiplies input rows by `C` at a time, then the rest by fewer.
template <values_format V, int C, int G>
void multiply_by(const std::byte* tile, std::size_t blocks, const quantised_rows& x, std::size_t vectors, float* sums,
                 std::size_t next_sums) {
  std::size_t v = 0;
  for (; v + C <= vectors; v += C)
    multiply_rows<V, C, G>(tile, blocks, x.from(v, 0), sums + v * panel_rows, next_sums);
  if constexpr (C > 1)
    if (v < vectors)
      multiply_by<V, fewer_rows(C), G>(tile, blocks, x.from(v, 0), vectors - v, sums + v * panel_rows, next_sums);
}

template <tensor_type T, int G>
void multiply(const std::byte* tile, std::size_t blocks, const quantised_rows& x, std::size_t vectors, float* sums) {
  multiply_by<values_of(T), max_rows[G - 1], G>(tile, blocks, x, vectors, sums, vectors * panel_rows);
}

/// Two packed panels with `C` input rows, unpacked in registers: `multiply_rows` without a tile. With each block,
/// fetches the next `fetch_bytes` from `next` on. Never inlined: several in one function have too few registers for
/// their addresses, which costs Q6_K a tenth.
template <tensor_type T, int C>
[[gnu::noinline]] void few_rows(const std::byte* panel, std::size_t panel_bytes, std::size_t columns,
                                const quantised_rows& x, float* sums, std::size_t next_sums, const std::byte* next,
                                std::size_t fetch_bytes) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  constexpr int quads = 8 / scale_count;
  const std::size_t row_scales = x.padded / activation_block;
  const float* const input_sum = input_sums<values_of(T)>(x);
  const std::int32_t* const minus = input_minus<values_of(T)>(x);
  __m512 acc[C][2];
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c)
    acc[c][0] = acc[c][1] = _mm512_setzero_ps();
  std::size_t at_block = 0;
  for (std::size_t u = 0; u < columns / f.unit_columns(); ++u, panel += f.unit_bytes()) {
    const std::byte* block = panel + f.header_bytes;
    for (std::size_t b = 0; b < f.unit_blocks; ++b, ++at_block, block += f.block_bytes()) {
      for (const std::byte* const end = next + fetch_bytes; next < end; next += vector_bytes)
        __builtin_prefetch(next, 0, 2);
      unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
        __m512i dot[C][2];
        TROPILLA_UNROLL
        for (int c = 0; c < C; ++c)
          dot[c][0] = dot[c][1] = dot_start<values_of(T)>(minus + (c * row_scales + at_block) * scale_count + s);
        unrolled<quads>([&](auto i) __attribute__((always_inline)) {
          constexpr int g = s * quads + i;
          const __m512i first = quad_values<T, g>(block), second = quad_values<T, g>(block + panel_bytes);
          TROPILLA_UNROLL
          for (int c = 0; c < C; ++c) {
            const __m512i input = broadcast_quad(x.q + c * x.padded + at_block * block_columns + g * quad_columns);
            dot[c][0] = add_products(dot[c][0], first, input);
            dot[c][1] = add_products(dot[c][1], second, input);
          }
        });
        const scales w[2] = {unit_scales<T>(panel, b * scale_count + s),
                             unit_scales<T>(panel + panel_bytes, b * scale_count + s)};
        TROPILLA_UNROLL
        for (int c = 0; c < C; ++c) {
          const std::size_t at = c * row_scales + at_block;
          const __m512 scale = _mm512_set1_ps(x.scale[at]);
          const __m512 sum = _mm512_set1_ps(input_sum[at * scale_count + s]);
          TROPILLA_UNROLL
          for (int n = 0; n < 2; ++n)
            acc[c][n] = accumulated<values_of(T)>(acc[c][n], dot[c][n], w[n], scale, sum);
        }
      });
    }
  }
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c) {
    TROPILLA_UNROLL
    for (int n = 0; n < 2; ++n)
      _mm512_storeu_ps(sums + c * panel_rows + n * next_sums, acc[c][n]);
  }
}

/// Rows go by six and fewer, which pass over the weights one after another. Meanwhile the next two panels are
/// fetched, by every row its share: if the first pass fetched all, memory would be idle in the others. What is fetched
/// may lie behind the matrix, and is never read.
template <tensor_type T>
void gemm_small(const std::byte* panel, std::size_t panel_bytes, std::size_t columns, const quantised_rows& x,
                std::size_t vectors, float* sums) {
  const std::size_t next_sums = vectors * panel_rows;
  const std::byte* const next = panel + 2 * panel_bytes;
  const std::size_t lines = 2 * panel_bytes / vector_bytes;
  const std::size_t work = vectors * (columns / block_columns);
  std::size_t v = 0;
  const auto by = [&]<int C>() {
    const std::size_t block_lines = divide_up(C * lines, work);
    for (; v + C <= vectors; v += C)
      few_rows<T, C>(panel, panel_bytes, columns, x.from(v, 0), sums + v * panel_rows, next_sums,
                     next + v * lines / vectors * vector_bytes, block_lines * vector_bytes);
  };
#ifndef TROPILLA_TWO_ROWS
  by.template operator()<max_rows[1]>();
  by.template operator()<4>();
#endif
  by.template operator()<2>();
  by.template operator()<1>();
}

/// Sixteen values of one column of a float type, from `[columns, 16]`.
template <tensor_type T>
[[gnu::always_inline]] inline __m512 column_values(const std::byte* panel, std::size_t column) {
  const std::size_t at = column * panel_rows;
  if constexpr (T == tensor_type::f32)
    return _mm512_loadu_ps(reinterpret_cast<const float*>(panel) + at);
  else if constexpr (T == tensor_type::f16)
    return halves(panel + at * 2);
  else
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(from_u16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + at * 2))), 16));
}

template <tensor_type T>
void vector_full(const std::byte* panel, std::size_t columns, const float* x, float* sums) {
  __m512 acc = _mm512_setzero_ps();
  for (std::size_t k = 0; k < columns; ++k)
    acc = _mm512_fmadd_ps(column_values<T>(panel, k), _mm512_set1_ps(x[k]), acc);
  _mm512_storeu_ps(sums, acc);
}

template <tensor_type T>
void widen(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  for (std::size_t k = first; k < first + columns; ++k, tile += panel_rows)
    _mm512_storeu_ps(tile, column_values<T>(panel, k));
}

template <tensor_type T>
void expand(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  for (std::size_t k = first; k < first + columns; k += block_columns, tile += block_columns * panel_rows) {
    const std::byte* unit = panel + k / f.unit_columns() * f.unit_bytes();
    const std::size_t b = k % f.unit_columns() / block_columns;
    const std::byte* block = unit + f.header_bytes + b * f.block_bytes();
    unrolled<8>([&](auto g) __attribute__((always_inline)) {
      constexpr int s = g * scale_count / 8;
      const scales w = unit_scales<T>(unit, b * scale_count + s);
      const __m512i values = quad_values<T, g>(block);
      unrolled<4>([&](auto i) __attribute__((always_inline)) {
        const __m512 q = ints_to_floats(_mm512_and_si512(_mm512_srli_epi32(values, 8 * i), _mm512_set1_epi32(255)));
        __m512 out;
        if constexpr (f.minimum)
          out = _mm512_add_ps(_mm512_mul_ps(w.scale, q), w.minimum);
        else
          out = _mm512_mul_ps(w.scale, _mm512_sub_ps(q, _mm512_set1_ps(float{f.zero_point})));
        _mm512_storeu_ps(tile + (g * 4 + i) * panel_rows, out);
      });
    });
  }
}

/// Multiplies one float32 tile with `C` input rows.
template <int C>
void multiply_rows_full(const float* tile, std::size_t columns, const float* x, std::size_t stride, float* sums) {
  __m512 acc[C];
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c)
    acc[c] = _mm512_loadu_ps(sums + c * panel_rows);
  for (std::size_t k = 0; k < columns; ++k, tile += panel_rows) {
    const __m512 w = _mm512_loadu_ps(tile);
    TROPILLA_UNROLL
    for (int c = 0; c < C; ++c)
      acc[c] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[c * stride + k]), acc[c]);
  }
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c)
    _mm512_storeu_ps(sums + c * panel_rows, acc[c]);
}

void multiply_full(const float* tile, std::size_t columns, const float* x, std::size_t stride, std::size_t vectors,
                   float* sums) {
  constexpr int most = 12;
  for (; vectors >= most; vectors -= most, x += most * stride, sums += most * panel_rows)
    multiply_rows_full<most>(tile, columns, x, stride, sums);
  for (; vectors >= 4; vectors -= 4, x += 4 * stride, sums += 4 * panel_rows)
    multiply_rows_full<4>(tile, columns, x, stride, sums);
  for (; vectors != 0; --vectors, x += stride, sums += panel_rows)
    multiply_rows_full<1>(tile, columns, x, stride, sums);
}

template <tensor_type T>
consteval linear_type kernels() {
  if constexpr (is_float(T))
    return {.vector_full = vector_full<T>, .expand = widen<T>};
  else
    return {.vector = vector<T>,
            .unpack = unpack<T>,
            .multiply = multiply<T, 1>,
            .multiply_pair = multiply<T, 2>,
            .tile_block_bytes = tile_block_bytes<values_of(T)>,
            .gemm_small = gemm_small<T>,
            .expand = expand<T>};
}

} // namespace

const linear_table& linear_kernels() noexcept {
  static constexpr linear_table table =
      make_linear_table("avx512", multiply_full, []<tensor_type T>() { return kernels<T>(); });
  return table;
}

} // namespace tropilla::host::TROPILLA_AVX512_NS
