// Matrix products with AVX2, FMA and F16C.
//
// `vpmaddubsw` multiplies unsigned weights with signed inputs and adds pairs into 16 bits, exactly: products of values
// up to 63 cannot saturate. A *run* of quads is summed in 16 bits before it is widened to 32: 8 quads of 4-bit values
// (8 * 2 * 15 * 127 < 2^15), 4 of 5-bit ones, 2 of 6-bit ones. Bytes, those of a codebook too, are split into nibbles:
// two runs of 8 quads that are put together when they are widened.
//
// A vector of a quad holds eight rows (four columns each), so sixteen rows are two registers, `reg` 0 and 1.
#include "kernels/host/linear_vectors_impl.hpp"
#include "kernels/host/simd16_avx2.hpp"

#include <immintrin.h>

#include <algorithm>

namespace tropilla::host::avx2 {
namespace {

using namespace packed;

/// Eight rows of a panel, in one register.
struct simd : simd16 {
  using ints = __m256i;

  [[gnu::always_inline]] static ints load_ints(const std::byte* p) noexcept {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  }
  [[gnu::always_inline]] static void store_ints(std::byte* p, ints v) noexcept {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
  }
  [[gnu::always_inline]] static ints no_ints() noexcept { return _mm256_setzero_si256(); }
  [[gnu::always_inline]] static ints ints_of(std::int32_t i) noexcept { return _mm256_set1_epi32(i); }
  [[gnu::always_inline]] static ints bytes_of(int i) noexcept { return _mm256_set1_epi8(static_cast<char>(i)); }

  [[gnu::always_inline]] static ints and_bits(ints a, ints b) noexcept { return _mm256_and_si256(a, b); }
  [[gnu::always_inline]] static ints or_bits(ints a, ints b) noexcept { return _mm256_or_si256(a, b); }
  [[gnu::always_inline]] static ints add_ints(ints a, ints b) noexcept { return _mm256_add_epi32(a, b); }
  [[gnu::always_inline]] static ints sub_ints(ints a, ints b) noexcept { return _mm256_sub_epi32(a, b); }
  template <int N>
  [[gnu::always_inline]] static ints shifted(ints v) noexcept {
    if constexpr (N < 0)
      return _mm256_srli_epi32(v, -N);
    else
      return _mm256_slli_epi32(v, N);
  }
  template <int N>
  [[gnu::always_inline]] static ints shifted_bytes(ints v) noexcept {
    if constexpr (N < 0)
      return _mm256_srli_epi16(v, -N);
    else
      return _mm256_slli_epi16(v, N);
  }
  [[gnu::always_inline]] static ints shifted_right(ints v, int n) noexcept {
    return _mm256_srl_epi32(v, _mm_cvtsi32_si128(n));
  }
  [[gnu::always_inline]] static ints looked_up(const std::uint8_t* table, ints indices) noexcept {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), indices);
  }
  [[gnu::always_inline]] static ints unsigned_bytes(const std::byte* p) noexcept {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }

  [[gnu::always_inline]] static reg to_floats(ints v) noexcept { return _mm256_cvtepi32_ps(v); }
  [[gnu::always_inline]] static reg negated(reg x) noexcept { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0F)); }
  [[gnu::always_inline]] static reg add_reg(reg a, reg b) noexcept { return _mm256_add_ps(a, b); }
  [[gnu::always_inline]] static reg sub_reg(reg a, reg b) noexcept { return _mm256_sub_ps(a, b); }
};

using reader = panel_reader<simd>;

/// Whether values are bytes, which are multiplied as nibbles.
template <tensor_type T>
constexpr bool splits = format_of(T).bytes || format_of(T).codebook;

/// The codebook's low or high nibbles.
template <bool High>
constexpr auto codebook_nibbles = [] {
  auto values = codebook;
  for (auto& v : values)
    v = static_cast<std::uint8_t>(High ? v >> 4 : v & 15);
  return values;
}();

/// Quads that a run sums in 16 bits.
template <tensor_type T>
constexpr int run_quads = format_of(T).top() <= 15 || splits<T> ? 8
                          : format_of(T).top() <= 31            ? 4
                                                                : 2;

/// What `vector_kernels` asks for.
struct products : simd {
  using vectors = simd;
  static constexpr std::size_t prefetch_distance = 0;

  /// Bytes become sixteen quads, low nibbles and then high ones.
  template <tensor_type T>
  using tile = tile_layout<values_of(T), splits<T> ? 16 : 8>;

  template <tensor_type T, int G>
  [[gnu::always_inline]] static ints tile_values(const std::byte* block) noexcept {
    constexpr format f = format_of(T);
    if constexpr (f.bytes)
      return and_bits(shifted_bytes<(G < 8 ? 0 : -4)>(load_ints(block + G % 8 * vector_bytes)), bytes_of(15));
    else if constexpr (f.codebook)
      return looked_up(codebook_nibbles<(G >= 8)>.data(), reader::nibble_quad<G % 8>(block));
    else
      return reader::quad_values<T, G>(block);
  }

  /// Exact dot products of eight rows over one scale's columns. `values(std::integral_constant g)` gives the weights of
  /// tile quad g, `x` the inputs of the block.
  template <tensor_type T, int S, class Values>
  [[gnu::always_inline]] static ints dot_of(Values values, const std::int8_t* x, const std::int32_t* minus) noexcept {
    constexpr int quads = tile<T>::quads / values_of(T).block_scales;
    constexpr int run = std::min(run_quads<T>, quads);
    ints total{};
    unrolled<quads / run>([&](auto r) __attribute__((always_inline)) {
      ints sum{};
      unrolled<run>([&](auto i) __attribute__((always_inline)) {
        constexpr int g = S * quads + r * run + i;
        const ints input = reader::broadcast_quad(x + g % 8 * quad_columns);
        const ints pairs = _mm256_maddubs_epi16(values(std::integral_constant<int, g>{}), input);
        sum = i == 0 ? pairs : _mm256_add_epi16(sum, pairs);
      });
      const ints wide = _mm256_madd_epi16(sum, _mm256_set1_epi16(splits<T> && r == 1 ? 16 : 1));
      total = r == 0 ? wide : add_ints(total, wide);
    });
    return add_ints(total, reader::zero_point_term<values_of(T)>(minus));
  }
  template <tensor_type T, int S>
  [[gnu::always_inline]] static ints dot(const std::byte* block, const std::int8_t* x,
                                         const std::int32_t* minus) noexcept {
    const auto values = [&](auto g) __attribute__((always_inline)) {
      return tile_values<T, g>(block);
    };
    return dot_of<T, S>(values, x, minus);
  }
};

using kernels = vector_kernels<products>;

/// Multiplies one tile with `C` input rows.
template <tensor_type T, int C>
void multiply_rows(const std::byte* tile, std::size_t blocks, const quantised_rows& x, float* sums) {
  using layout = products::tile<T>;
  constexpr int scale_count = values_of(T).block_scales;
  const std::size_t row_scales = x.padded / activation_block;
  const float* input_sum = input_sums<values_of(T)>(x);
  const std::int32_t* minus = input_minus<values_of(T)>(x);
  __m256 acc[C][2];
  unrolled<C>([&](auto c) __attribute__((always_inline)) {
    acc[c][0] = _mm256_load_ps(sums + c * panel_rows);
    acc[c][1] = _mm256_load_ps(sums + c * panel_rows + 8);
  });
  for (std::size_t b = 0; b < blocks; ++b, tile += layout::block_bytes) {
    unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
      unrolled<2>([&](auto h) __attribute__((always_inline)) {
        const reader::scales w = reader::tile_scales<layout>(tile, s, h);
        const auto values = [&](auto g) __attribute__((always_inline)) {
          return simd::load_ints(tile + g * vector_bytes + h * reader::reg_bytes);
        };
        unrolled<C>([&](auto c) __attribute__((always_inline)) {
          const std::size_t at = c * row_scales + b;
          const __m256i dot =
              products::dot_of<T, s>(values, x.q + c * x.padded + b * block_columns, minus + at * scale_count + s);
          acc[c][h] = reader::accumulated<values_of(T)>(acc[c][h], dot, w, simd::reg_of(x.scale[at]),
                                                        simd::reg_of(input_sum[at * scale_count + s]));
        });
      });
    });
  }
  unrolled<C>([&](auto c) __attribute__((always_inline)) {
    _mm256_store_ps(sums + c * panel_rows, acc[c][0]);
    _mm256_store_ps(sums + c * panel_rows + 8, acc[c][1]);
  });
}

template <tensor_type T>
void multiply(const std::byte* tile, std::size_t blocks, const quantised_rows& x, std::size_t vectors, float* sums) {
  std::size_t v = 0;
  for (; v + 2 <= vectors; v += 2)
    multiply_rows<T, 2>(tile, blocks, x.from(v, 0), sums + v * panel_rows);
  if (v < vectors)
    multiply_rows<T, 1>(tile, blocks, x.from(v, 0), sums + v * panel_rows);
}

template <tensor_type T>
consteval linear_type kernels_for() {
  if constexpr (is_float(T))
    return {.vector_full = kernels::vector_full<T>, .expand = kernels::widen<T>};
  else
    return {.vector = kernels::vector<T>,
            .unpack = kernels::unpack<T>,
            .multiply = multiply<T>,
            .tile_block_bytes = products::tile<T>::block_bytes,
            .expand = kernels::expand<T>};
}

} // namespace

const linear_table& linear_kernels() noexcept {
  // Twelve accumulators for six rows of floats hide the latency of the additions.
  static constexpr linear_table table =
      make_linear_table("avx2", kernels::multiply_full<6, 3, 2, 1>, []<tensor_type T>() { return kernels_for<T>(); });
  return table;
}

} // namespace tropilla::host::avx2
