// Matrix products with AVX-512 and VNNI.
//
// `vpdpbusd` adds four products of unsigned weights and signed inputs to each of sixteen 32-bit sums, exactly: a quad
// of sixteen rows is one vector, the input's four columns are broadcast from memory. A block of one input row is eight
// of them, a conversion and two or three multiply-adds.
#include "kernels/host/linear_vectors_impl.hpp"
#include "kernels/host/simd16_avx512.hpp"
#include "memory/rounding.hpp"

#include <cstring>

namespace tropilla::host::TROPILLA_AVX512_NS {
namespace {

using namespace packed;

/// Sixteen rows of a panel, in one register.
struct simd : simd16 {
  using ints = __m512i;

  // Emulated intrinsics are macros that mind the commas of template arguments: functions of our own don't.
  [[gnu::always_inline]] static ints load_ints(const std::byte* p) noexcept { return _mm512_loadu_si512(p); }
  [[gnu::always_inline]] static void store_ints(std::byte* p, ints v) noexcept { _mm512_storeu_si512(p, v); }
  [[gnu::always_inline]] static ints no_ints() noexcept { return _mm512_setzero_si512(); }
  [[gnu::always_inline]] static ints ints_of(std::int32_t i) noexcept { return _mm512_set1_epi32(i); }
  [[gnu::always_inline]] static ints bytes_of(int i) noexcept { return _mm512_set1_epi8(static_cast<char>(i)); }

  [[gnu::always_inline]] static ints and_bits(ints a, ints b) noexcept { return _mm512_and_si512(a, b); }
  [[gnu::always_inline]] static ints or_bits(ints a, ints b) noexcept { return _mm512_or_si512(a, b); }
  [[gnu::always_inline]] static ints add_ints(ints a, ints b) noexcept { return _mm512_add_epi32(a, b); }
  [[gnu::always_inline]] static ints sub_ints(ints a, ints b) noexcept { return _mm512_sub_epi32(a, b); }
  template <int N>
  [[gnu::always_inline]] static ints shifted(ints v) noexcept {
    if constexpr (N < 0)
      return _mm512_srli_epi32(v, -N);
    else
      return _mm512_slli_epi32(v, N);
  }
  template <int N>
  [[gnu::always_inline]] static ints shifted_bytes(ints v) noexcept {
    if constexpr (N < 0)
      return _mm512_srli_epi16(v, -N);
    else
      return _mm512_slli_epi16(v, N);
  }
  [[gnu::always_inline]] static ints shifted_right(ints v, int n) noexcept {
    return _mm512_srl_epi32(v, _mm_cvtsi32_si128(n));
  }
  [[gnu::always_inline]] static ints looked_up(const std::uint8_t* table, ints indices) noexcept {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), indices);
  }
  [[gnu::always_inline]] static ints unsigned_bytes(const std::byte* p) noexcept {
    return unsigned_bytes_to_ints(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  [[gnu::always_inline]] static reg to_floats(ints v) noexcept { return ints_to_floats(v); }
  [[gnu::always_inline]] static reg negated(reg x) noexcept {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)));
  }
  [[gnu::always_inline]] static reg add_reg(reg a, reg b) noexcept { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static reg sub_reg(reg a, reg b) noexcept { return _mm512_sub_ps(a, b); }
};

using reader = panel_reader<simd>;

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

/// What `vector_kernels` asks for.
struct products : simd {
  using vectors = simd;
  /// The processor's own prefetching ends at each page of 4 KiB, so this reaches further. Q4_K 1.35 times and Q4_1 1.08
  /// times as fast as without, and 1.11 and 0.93 times with 1 KiB (Zen 5, medians of seven pairs). What lies behind the
  /// weights is only fetched, never read.
  static constexpr std::size_t prefetch_distance = 4096;

  template <tensor_type T>
  using tile = tile_layout<values_of(T), 8>;

  template <tensor_type T, int G>
  [[gnu::always_inline]] static ints tile_values(const std::byte* block) noexcept {
    return reader::quad_values<T, G>(block);
  }

  template <tensor_type T, int S>
  [[gnu::always_inline]] static ints dot(const std::byte* block, const std::int8_t* x,
                                         const std::int32_t* minus) noexcept {
    constexpr int quads = 8 / values_of(T).block_scales;
    // Two sums, so that the additions' latency does not add up.
    ints sums[2] = {reader::zero_point_term<values_of(T)>(minus), no_ints()};
    unrolled<quads>([&](auto i) __attribute__((always_inline)) {
      constexpr int g = S * quads + i;
      const ints input = reader::broadcast_quad(x + g * quad_columns);
      sums[i % 2] = add_products(sums[i % 2], reader::quad_values<T, g>(block), input);
    });
    return add_ints(sums[0], sums[1]);
  }
};

using kernels = vector_kernels<products>;

/// `G` tiles, one behind the other, with `C` input rows; the sums of the second begin `next_sums` behind those of the
/// first. 2 G C of the 32 registers hold sums, and G C independent chains hide the latency of `vpdpbusd` (5 cycles, two
/// a cycle). With two tiles an input that was broadcast once serves both: one tile is bound by loads (a core loads two
/// vectors a cycle), two by multiplying.
template <values_format V, int C, int G>
void multiply_rows(const std::byte* tile, std::size_t blocks, const quantised_rows& x, float* sums,
                   std::size_t next_sums) {
  using layout = tile_layout<V, 8>;
  constexpr int scale_count = V.block_scales;
  constexpr int quads = 8 / scale_count;
  const std::size_t row_scales = x.padded / activation_block;
  const std::size_t next_tile = blocks * layout::block_bytes;
  const float* input_sum = input_sums<V>(x);
  const std::int32_t* minus = input_minus<V>(x);
  __m512 acc[C][G];
  TROPILLA_UNROLL
  for (int c = 0; c < C; ++c) {
    TROPILLA_UNROLL
    for (int n = 0; n < G; ++n)
      acc[c][n] = _mm512_loadu_ps(sums + c * panel_rows + n * next_sums);
  }
  for (std::size_t b = 0; b < blocks; ++b, tile += layout::block_bytes) {
    TROPILLA_UNROLL
    for (int s = 0; s < scale_count; ++s) {
      __m512i dot[C][G];
      TROPILLA_UNROLL
      for (int c = 0; c < C; ++c) {
        const __m512i start = reader::zero_point_term<V>(minus + (c * row_scales + b) * scale_count + s);
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
          values[n] = simd::load_ints(tile + n * next_tile + g * vector_bytes);
        TROPILLA_UNROLL
        for (int c = 0; c < C; ++c) {
          const __m512i input = reader::broadcast_quad(x.q + c * x.padded + b * block_columns + g * quad_columns);
          TROPILLA_UNROLL
          for (int n = 0; n < G; ++n)
            dot[c][n] = add_products(dot[c][n], values[n], input);
        }
      }
      reader::scales w[G];
      TROPILLA_UNROLL
      for (int n = 0; n < G; ++n)
        w[n] = reader::tile_scales<layout>(tile + n * next_tile, s, 0);
      TROPILLA_UNROLL
      for (int c = 0; c < C; ++c) {
        const std::size_t at = c * row_scales + b;
        const __m512 scale = _mm512_set1_ps(x.scale[at]);
        const __m512 sum = _mm512_set1_ps(input_sum[at * scale_count + s]);
        TROPILLA_UNROLL
        for (int n = 0; n < G; ++n)
          acc[c][n] = reader::accumulated<V>(acc[c][n], dot[c][n], w[n], scale, sum);
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
          dot[c][0] = dot[c][1] =
              reader::zero_point_term<values_of(T)>(minus + (c * row_scales + at_block) * scale_count + s);
        unrolled<quads>([&](auto i) __attribute__((always_inline)) {
          constexpr int g = s * quads + i;
          const __m512i first = reader::quad_values<T, g>(block),
                        second = reader::quad_values<T, g>(block + panel_bytes);
          TROPILLA_UNROLL
          for (int c = 0; c < C; ++c) {
            const __m512i input =
                reader::broadcast_quad(x.q + c * x.padded + at_block * block_columns + g * quad_columns);
            dot[c][0] = add_products(dot[c][0], first, input);
            dot[c][1] = add_products(dot[c][1], second, input);
          }
        });
        const reader::scales w[2] = {reader::unit_scales<T>(panel, b * scale_count + s, 0),
                                     reader::unit_scales<T>(panel + panel_bytes, b * scale_count + s, 0)};
        TROPILLA_UNROLL
        for (int c = 0; c < C; ++c) {
          const std::size_t at = c * row_scales + at_block;
          const __m512 scale = _mm512_set1_ps(x.scale[at]);
          const __m512 sum = _mm512_set1_ps(input_sum[at * scale_count + s]);
          TROPILLA_UNROLL
          for (int n = 0; n < 2; ++n)
            acc[c][n] = reader::accumulated<values_of(T)>(acc[c][n], dot[c][n], w[n], scale, sum);
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

template <tensor_type T>
consteval linear_type kernels_for() {
  if constexpr (is_float(T))
    return {.vector_full = kernels::vector_full<T>, .expand = kernels::widen<T>};
  else
    return {.vector = kernels::vector<T>,
            .unpack = kernels::unpack<T>,
            .multiply = multiply<T, 1>,
            .multiply_pair = multiply<T, 2>,
            .tile_block_bytes = products::tile<T>::block_bytes,
            .gemm_small = gemm_small<T>,
            .expand = kernels::expand<T>};
}

} // namespace

const linear_table& linear_kernels() noexcept {
  static constexpr linear_table table =
      make_linear_table("avx512", kernels::multiply_full<12, 4, 1>, []<tensor_type T>() { return kernels_for<T>(); });
  return table;
}

} // namespace tropilla::host::TROPILLA_AVX512_NS
