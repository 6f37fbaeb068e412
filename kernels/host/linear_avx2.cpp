// Matrix products with AVX2, FMA and F16C.
//
// `vpmaddubsw` multiplies unsigned weights with signed inputs and adds pairs into 16 bits, exactly: products of values
// up to 63 cannot saturate. A *run* of quads is summed in 16 bits before it is widened to 32: 8 quads of 4-bit values
// (8 * 2 * 15 * 127 < 2^15), 4 of 5-bit ones, 2 of 6-bit ones. Bytes, those of a codebook too, are split into nibbles:
// two runs of 8 quads that are put together when they are widened.
//
// A vector of a quad holds eight rows (four columns each), so sixteen rows are two vectors, `half` 0 and 1.
#include "kernels/host/linear_impl.hpp"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace tropilla::host::avx2 {
namespace {

using namespace packed;

constexpr std::size_t half_bytes = 32;

[[gnu::always_inline]] inline __m256i load(const std::byte* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
[[gnu::always_inline]] inline __m256i broadcast_quad(const std::int8_t* x) {
  std::int32_t four = 0;
  std::memcpy(&four, x, sizeof(four));
  return _mm256_set1_epi32(four);
}
[[gnu::always_inline]] inline __m256i bits(int mask) {
  return _mm256_set1_epi8(static_cast<char>(mask));
}

/// Bits of every byte moved up by `N` (down where negative); bits that cross into a neighbour are for a mask to remove.
template <int N>
[[gnu::always_inline]] inline __m256i shifted(__m256i v) {
  if constexpr (N > 0)
    return _mm256_slli_epi16(v, N);
  else if constexpr (N < 0)
    return _mm256_srli_epi16(v, -N);
  else
    return v;
}

/// Whether values are bytes, which are multiplied as nibbles.
template <tensor_type T>
constexpr bool splits = format_of(T).bytes || format_of(T).codebook;

/// Quads of a block as the kernels multiply them: bytes become sixteen quads, low nibbles and then high ones.
template <tensor_type T>
constexpr int tile_quads = splits<T> ? 16 : 8;

/// The codebook's value of each byte, which is an index: its low nibbles, its high ones, or all of it.
enum class codebook_part : std::uint8_t { low, high, whole };
template <codebook_part Part>
[[gnu::always_inline]] inline __m256i looked_up(__m256i indices) {
  alignas(16) static constexpr auto table = [] {
    auto values = codebook;
    for (auto& v : values)
      v = static_cast<std::uint8_t>(Part == codebook_part::low ? v & 15 : Part == codebook_part::high ? v >> 4 : v);
    return values;
  }();
  const __m128i values = _mm_load_si128(reinterpret_cast<const __m128i*>(table.data()));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), indices);
}

/// The plane of nibbles, quad `G` of half a block.
template <int G>
[[gnu::always_inline]] inline __m256i nibble_quad(const std::byte* half) {
  return _mm256_and_si256(shifted < G < 4 ? 0 : -4 > (load(half + G % 4 * vector_bytes)), bits(15));
}

/// Quad `G` of half `H` of a packed block, unpacked.
template <tensor_type T, int G, int H>
[[gnu::always_inline]] inline __m256i quad_values(const std::byte* block) {
  constexpr format f = format_of(T);
  const std::byte* at = block + H * half_bytes;
  if constexpr (f.bytes) {
    const __m256i v = load(at + G % 8 * vector_bytes);
    return _mm256_and_si256(shifted < G < 8 ? 0 : -4 > (v), bits(15));
  } else if constexpr (f.codebook) {
    return looked_up < G < 8 ? codebook_part::low : codebook_part::high > (nibble_quad<G % 8>(at));
  } else {
    __m256i q = _mm256_setzero_si256();
    if constexpr (f.nibbles)
      q = nibble_quad<G>(at);
    if constexpr (f.twos) {
      constexpr int to = f.nibbles ? 4 : 0;
      const __m256i v = load(at + f.twos_offset() + G / 4 * vector_bytes);
      q = _mm256_or_si256(q, _mm256_and_si256(shifted<to - G % 4 * 2>(v), bits(3 << to)));
    }
    if constexpr (f.ones) {
      constexpr int to = f.nibbles ? 4 : 2;
      q = _mm256_or_si256(q, _mm256_and_si256(shifted<to - G>(load(at + f.ones_offset())), bits(1 << to)));
    }
    return q;
  }
}

[[gnu::always_inline]] inline __m256 halves(const std::byte* p) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}
/// Eight unsigned bytes as integers.
[[gnu::always_inline]] inline __m256i eight_bytes(const std::byte* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline __m256i masked(__m256i v, int shift, int mask) {
  return _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(mask));
}

struct scales {
  __m256 scale;
  __m256 minimum;
};

/// Scale and minimum `s` of a unit for the rows of half `H`: `packed::scale_at`, eight rows at once.
template <tensor_type T, int H>
[[gnu::always_inline]] inline scales unit_scales(const std::byte* unit, std::size_t s) {
  using enum tensor_type;
  const __m256 d = halves(unit + H * half_bytes / 2);
  const std::byte* second = unit + halves_bytes + H * half_bytes / 2;
  const auto times = [](__m256 a, __m256i b) { return _mm256_mul_ps(a, _mm256_cvtepi32_ps(b)); };
  const auto negated = [](__m256 a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0F)); };
  const auto bytes = [&](std::size_t header, std::size_t j) {
    return eight_bytes(unit + header + j * panel_rows + H * std::size_t{8});
  };
  if constexpr (T == q4_1 || T == q5_1) {
    return {d, halves(second)};
  } else if constexpr (T == q2_k) {
    const __m256i both = bytes(2 * halves_bytes, s);
    return {times(d, masked(both, 0, 15)), negated(times(halves(second), masked(both, 4, 15)))};
  } else if constexpr (T == q3_k) {
    const __m256i low = masked(bytes(halves_bytes, s / 2), static_cast<int>(s % 2 * 4), 15);
    const __m256i high = masked(bytes(halves_bytes, 8 + s / 4), static_cast<int>(s % 4 * 2), 3);
    const __m256i six = _mm256_or_si256(low, _mm256_slli_epi32(high, 4));
    return {times(d, _mm256_sub_epi32(six, _mm256_set1_epi32(32))), _mm256_setzero_ps()};
  } else if constexpr (T == q4_k || T == q5_k) {
    const __m256i a = bytes(2 * halves_bytes, s);
    const __m256i low = masked(bytes(2 * halves_bytes, 8 + s / 2), static_cast<int>(s % 2 * 4), 15);
    const __m256i min = _mm256_or_si256(low, _mm256_slli_epi32(masked(a, 6, 3), 4));
    return {times(d, masked(a, 0, 63)), negated(times(halves(second), min))};
  } else if constexpr (T == q6_k) {
    const auto* signed_bytes = unit + halves_bytes + s * panel_rows + H * std::size_t{8};
    return {times(d, _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(signed_bytes)))),
            _mm256_setzero_ps()};
  } else {
    return {d, _mm256_setzero_ps()};
  }
}

/// Quads that a run sums in 16 bits.
template <tensor_type T>
constexpr int run_quads = format_of(T).top() <= 15 || splits<T> ? 8
                          : format_of(T).top() <= 31            ? 4
                                                                : 2;

/// Exact dot products of eight rows over one scale's columns, in int32. `values(std::integral_constant g)` gives the
/// weights of tile quad g, `x` the inputs of the block.
template <tensor_type T, int S, class Values>
[[gnu::always_inline]] inline __m256i block_dot(Values values, const std::int8_t* x) {
  constexpr format f = format_of(T);
  constexpr int quads = tile_quads<T> / static_cast<int>(f.block_scales());
  constexpr int run = std::min(run_quads<T>, quads);
  __m256i total{};
  unrolled<quads / run>([&](auto r) __attribute__((always_inline)) {
    __m256i sum{};
    unrolled<run>([&](auto i) __attribute__((always_inline)) {
      constexpr int g = S * quads + r * run + i;
      const __m256i pairs =
          _mm256_maddubs_epi16(values(std::integral_constant<int, g>{}), broadcast_quad(x + g % 8 * quad_columns));
      sum = i == 0 ? pairs : _mm256_add_epi16(sum, pairs);
    });
    const __m256i wide = _mm256_madd_epi16(sum, _mm256_set1_epi16(splits<T> && r == 1 ? 16 : 1));
    total = r == 0 ? wide : _mm256_add_epi32(total, wide);
  });
  return total;
}

/// Takes the zero point off a dot product; `minus` is -sum(x) of its inputs.
template <tensor_type T>
[[gnu::always_inline]] inline __m256i without_zero_point(__m256i dot, const std::int32_t* minus) {
  if constexpr (format_of(T).minimum)
    return dot;
  else
    return _mm256_add_epi32(dot, _mm256_slli_epi32(_mm256_set1_epi32(*minus),
                                                   std::countr_zero(static_cast<unsigned>(format_of(T).zero_point))));
}

/// The step from dot products to the sums: see linear.hpp.
template <tensor_type T>
[[gnu::always_inline]] inline __m256 accumulated(__m256 acc, __m256i dot, const scales& w, __m256 scale, __m256 sum) {
  const __m256 product = _mm256_fmadd_ps(w.scale, _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale), acc);
  if constexpr (format_of(T).minimum)
    return _mm256_fmadd_ps(w.minimum, sum, product);
  else
    return product;
}

template <tensor_type T>
void vector(const std::byte* panel, std::size_t columns, const quantised_rows& x, float* sums) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  __m256 acc[2]{};
  const std::int8_t* q = x.q;
  const float* scale = x.scale;
  const float* sum = input_sums<values_of(T)>(x);
  const std::int32_t* minus = input_minus<values_of(T)>(x);
  for (std::size_t u = 0; u < columns / f.unit_columns(); ++u, panel += f.unit_bytes()) {
    const std::byte* block = panel + f.header_bytes;
    for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), q += block_columns, ++scale) {
      const __m256 xs = _mm256_broadcast_ss(scale);
      unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
        const __m256 xsum = _mm256_broadcast_ss(sum + s);
        unrolled<2>([&](auto h) __attribute__((always_inline)) {
          const auto values = [&](auto g) __attribute__((always_inline)) {
            return quad_values<T, g, h>(block);
          };
          const __m256i dot = without_zero_point<T>(block_dot<T, s>(values, q), minus + s);
          acc[h] = accumulated<T>(acc[h], dot, unit_scales<T, h>(panel, b * scale_count + s), xs, xsum);
        });
      });
      sum += scale_count;
      minus += scale_count;
    }
  }
  _mm256_storeu_ps(sums, acc[0]);
  _mm256_storeu_ps(sums + 8, acc[1]);
}

/// Bytes of an unpacked block: values `[quads][16 rows][4]`, then scales and minimums, `[16]` each, per scale.
template <tensor_type T>
constexpr std::size_t tile_values_bytes = tile_quads<T>* vector_bytes;
template <tensor_type T>
constexpr std::size_t tile_scales_bytes = panel_rows * sizeof(float) * (format_of(T).minimum ? 2 : 1);
template <tensor_type T>
constexpr std::size_t tile_block_bytes = tile_values_bytes<T> + format_of(T).block_scales() * tile_scales_bytes<T>;

template <tensor_type T>
void unpack(const std::byte* panel, std::size_t first, std::size_t blocks, std::byte* tile) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  const std::byte* unit = panel + first / f.unit_blocks * f.unit_bytes();
  for (std::size_t u = 0; u < blocks / f.unit_blocks; ++u, unit += f.unit_bytes()) {
    const std::byte* block = unit + f.header_bytes;
    for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), tile += tile_block_bytes<T>)
      unrolled<2>([&](auto h) __attribute__((always_inline)) {
        unrolled<tile_quads<T>>([&](auto g) __attribute__((always_inline)) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(tile + g * vector_bytes + h * half_bytes),
                             quad_values<T, g, h>(block));
        });
        unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
          const scales w = unit_scales<T, h>(unit, b * scale_count + s);
          std::byte* at = tile + tile_values_bytes<T> + s * tile_scales_bytes<T> + h * half_bytes;
          _mm256_store_ps(reinterpret_cast<float*>(at), w.scale);
          if constexpr (f.minimum)
            _mm256_store_ps(reinterpret_cast<float*>(at + 2 * half_bytes), w.minimum);
        });
      });
  }
}

template <tensor_type T, int H>
[[gnu::always_inline]] inline scales tile_scales(const std::byte* tile, int s) {
  const std::byte* at = tile + tile_values_bytes<T> + s * tile_scales_bytes<T> + H * half_bytes;
  const auto* scale = reinterpret_cast<const float*>(at);
  if constexpr (format_of(T).minimum)
    return {_mm256_load_ps(scale), _mm256_load_ps(scale + panel_rows)};
  else
    return {_mm256_load_ps(scale), _mm256_setzero_ps()};
}

/// Multiplies one tile with `C` input rows.
template <tensor_type T, int C>
void multiply_rows(const std::byte* tile, std::size_t blocks, const quantised_rows& x, float* sums) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  const std::size_t row_scales = x.padded / activation_block;
  const float* input_sum = input_sums<values_of(T)>(x);
  const std::int32_t* minus = input_minus<values_of(T)>(x);
  __m256 acc[C][2];
  unrolled<C>([&](auto c) __attribute__((always_inline)) {
    acc[c][0] = _mm256_load_ps(sums + c * panel_rows);
    acc[c][1] = _mm256_load_ps(sums + c * panel_rows + 8);
  });
  for (std::size_t b = 0; b < blocks; ++b, tile += tile_block_bytes<T>) {
    unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
      unrolled<2>([&](auto h) __attribute__((always_inline)) {
        const scales w = tile_scales<T, h>(tile, s);
        const auto values = [&](auto g) __attribute__((always_inline)) {
          return load(tile + g * vector_bytes + h * half_bytes);
        };
        unrolled<C>([&](auto c) __attribute__((always_inline)) {
          const std::size_t at = c * row_scales + b;
          const __m256i dot = without_zero_point<T>(block_dot<T, s>(values, x.q + c * x.padded + b * block_columns),
                                                    minus + at * scale_count + s);
          acc[c][h] = accumulated<T>(acc[c][h], dot, w, _mm256_broadcast_ss(x.scale + at),
                                     _mm256_broadcast_ss(input_sum + at * scale_count + s));
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

/// Sixteen values of one column of a float type, from `[columns, 16]`.
template <tensor_type T, int H>
[[gnu::always_inline]] inline __m256 column_values(const std::byte* panel, std::size_t column) {
  const std::size_t at = column * panel_rows + H * std::size_t{8};
  if constexpr (T == tensor_type::f32) {
    return _mm256_load_ps(reinterpret_cast<const float*>(panel) + at);
  } else {
    const __m128i v = _mm_load_si128(reinterpret_cast<const __m128i*>(panel + at * 2));
    if constexpr (T == tensor_type::f16)
      return _mm256_cvtph_ps(v);
    else
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
}

template <tensor_type T>
void vector_full(const std::byte* panel, std::size_t columns, const float* x, float* sums) {
  __m256 acc[2]{};
  for (std::size_t k = 0; k < columns; ++k) {
    const __m256 xk = _mm256_broadcast_ss(x + k);
    acc[0] = _mm256_fmadd_ps(column_values<T, 0>(panel, k), xk, acc[0]);
    acc[1] = _mm256_fmadd_ps(column_values<T, 1>(panel, k), xk, acc[1]);
  }
  _mm256_storeu_ps(sums, acc[0]);
  _mm256_storeu_ps(sums + 8, acc[1]);
}

template <tensor_type T>
void widen(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  for (std::size_t k = first; k < first + columns; ++k, tile += panel_rows) {
    _mm256_store_ps(tile, column_values<T, 0>(panel, k));
    _mm256_store_ps(tile + 8, column_values<T, 1>(panel, k));
  }
}

/// Value `i` of each of eight rows from a vector of a quad.
template <int I>
[[gnu::always_inline]] inline __m256 column_of(__m256i values) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(values, 8 * I), _mm256_set1_epi32(255)));
}

template <tensor_type T>
void expand(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  constexpr format f = format_of(T);
  constexpr int scale_count = static_cast<int>(f.block_scales());
  for (std::size_t k = first; k < first + columns; k += block_columns, tile += block_columns * panel_rows) {
    const std::byte* unit = panel + k / f.unit_columns() * f.unit_bytes();
    const std::size_t b = k % f.unit_columns() / block_columns;
    const std::byte* block = unit + f.header_bytes + b * f.block_bytes();
    unrolled<2>([&](auto h) __attribute__((always_inline)) {
      unrolled<8>([&](auto g) __attribute__((always_inline)) {
        constexpr int s = g * scale_count / 8;
        const scales w = unit_scales<T, h>(unit, b * scale_count + s);
        __m256i values = quad_values<T, g, h>(block);
        if constexpr (f.bytes)
          values = load(block + g * vector_bytes + h * half_bytes);
        else if constexpr (f.codebook)
          values = looked_up<codebook_part::whole>(nibble_quad<g>(block + h * half_bytes));
        unrolled<4>([&](auto i) __attribute__((always_inline)) {
          const __m256 q = column_of<i>(values);
          __m256 out;
          if constexpr (f.minimum)
            out = _mm256_add_ps(_mm256_mul_ps(w.scale, q), w.minimum);
          else
            out = _mm256_mul_ps(w.scale, _mm256_sub_ps(q, _mm256_set1_ps(float{f.zero_point})));
          _mm256_store_ps(tile + (g * 4 + i) * panel_rows + h * 8, out);
        });
      });
    });
  }
}

/// Multiplies one float32 tile with `C` input rows: twelve accumulators for six rows, which hides the latency of the
/// additions.
template <int C>
void multiply_rows_full(const float* tile, std::size_t columns, const float* x, std::size_t stride, float* sums) {
  __m256 acc[C][2];
  unrolled<C>([&](auto c) __attribute__((always_inline)) {
    acc[c][0] = _mm256_load_ps(sums + c * panel_rows);
    acc[c][1] = _mm256_load_ps(sums + c * panel_rows + 8);
  });
  for (std::size_t k = 0; k < columns; ++k, tile += panel_rows) {
    const __m256 w0 = _mm256_load_ps(tile);
    const __m256 w1 = _mm256_load_ps(tile + 8);
    unrolled<C>([&](auto c) __attribute__((always_inline)) {
      const __m256 xk = _mm256_broadcast_ss(x + c * stride + k);
      acc[c][0] = _mm256_fmadd_ps(w0, xk, acc[c][0]);
      acc[c][1] = _mm256_fmadd_ps(w1, xk, acc[c][1]);
    });
  }
  unrolled<C>([&](auto c) __attribute__((always_inline)) {
    _mm256_store_ps(sums + c * panel_rows, acc[c][0]);
    _mm256_store_ps(sums + c * panel_rows + 8, acc[c][1]);
  });
}

void multiply_full(const float* tile, std::size_t columns, const float* x, std::size_t stride, std::size_t vectors,
                   float* sums) {
  constexpr int most = 6;
  for (; vectors >= most; vectors -= most, x += most * stride, sums += most * panel_rows)
    multiply_rows_full<most>(tile, columns, x, stride, sums);
  if (vectors >= 3) {
    multiply_rows_full<3>(tile, columns, x, stride, sums);
    vectors -= 3;
    x += 3 * stride;
    sums += 3 * panel_rows;
  }
  if (vectors == 2)
    multiply_rows_full<2>(tile, columns, x, stride, sums);
  if (vectors == 1)
    multiply_rows_full<1>(tile, columns, x, stride, sums);
}

template <tensor_type T>
consteval linear_type kernels() {
  if constexpr (is_float(T))
    return {.vector_full = vector_full<T>, .expand = widen<T>};
  else
    return {.vector = vector<T>,
            .unpack = unpack<T>,
            .multiply = multiply<T>,
            .tile_block_bytes = tile_block_bytes<T>,
            .expand = expand<T>};
}

} // namespace

const linear_table& linear_kernels() noexcept {
  static constexpr linear_table table =
      make_linear_table("avx2", multiply_full, []<tensor_type T>() { return kernels<T>(); });
  return table;
}

} // namespace tropilla::host::avx2
