/// Implements what the matrix products of AVX2 and AVX-512 have in common: reading packed panels, the kernels of float
/// types, and the loops around dot products. How a product is summed, and how many rows and tiles a loop has in
/// registers, is what `linear_avx2.cpp` and `linear_avx512.cpp` add.
///
/// Everything with code in it depends on a type that each of them defines in an anonymous namespace, so that no
/// function compiled for one machine is used on another.
///
/// That type, V, is a `simd16` of which only single registers (`reg`) are used, whose lanes are rows of a panel.
/// Sixteen rows are two registers with AVX2 and one with AVX-512. Beside floats, a V has as many 32-bit integers
/// (`ints`):
///
///     load_ints(p), store_ints(p, v)     four bytes for each row
///     ints_of(i), bytes_of(i), no_ints() one integer or byte everywhere; zeros
///     and_bits, or_bits                  of two vectors
///     add_ints, sub_ints                 of two vectors of 32-bit integers
///     shifted<N>(v)                      each integer shifted left by N bits, right where N is negative
///     shifted_bytes<N>(v)                each byte; what comes from its neighbour is for a mask to remove
///     shifted_right(v, n)                each integer, by a variable
///     looked_up(table, v)                each byte: the one of sixteen that it is the index of
///     unsigned_bytes(p)                  integers from one byte for each row
///     to_floats(v), negated(x), add_reg(x, y), sub_reg(x, y)
#pragma once

#include "kernels/host/bf16.hpp"
#include "kernels/host/linear_impl.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tropilla::host {

/// An unpacked block: values `[quads][16 rows][4]`, then scales and minimums, `[16]` each, per scale.
template <values_format F, int Quads>
struct tile_layout {
  static constexpr values_format format = F;
  static constexpr int quads = Quads;
  static constexpr std::size_t values_bytes = Quads * packed::vector_bytes;
  static constexpr std::size_t scales_bytes = panel_rows * sizeof(float) * (F.minimum ? 2 : 1);
  static constexpr std::size_t block_bytes = values_bytes + F.block_scales * scales_bytes;
};

/// Reads packed panels and tiles. `reg` says which rows of the panel, by register; a `block` begins at those rows.
template <class V>
struct panel_reader {
  using floats = typename V::reg;
  using ints = typename V::ints;
  static constexpr int regs = V::regs;
  static constexpr std::size_t reg_rows = panel_rows / V::regs;
  static constexpr std::size_t reg_bytes = packed::vector_bytes / V::regs;

  struct scales {
    floats scale;
    floats minimum;
  };

  /// Four inputs for every row.
  [[gnu::always_inline]] static ints broadcast_quad(const std::int8_t* x) noexcept {
    std::int32_t four = 0;
    std::memcpy(&four, x, sizeof(four));
    return V::ints_of(four);
  }

  /// The plane of nibbles, quad `G`.
  template <int G>
  [[gnu::always_inline]] static ints nibble_quad(const std::byte* block) noexcept {
    const ints both = V::load_ints(block + G % 4 * packed::vector_bytes);
    return V::and_bits(V::template shifted_bytes<(G < 4 ? 0 : -4)>(both), V::bytes_of(15));
  }

  /// Quad `G` of a packed block, unpacked.
  template <tensor_type T, int G>
  [[gnu::always_inline]] static ints quad_values(const std::byte* block) noexcept {
    constexpr packed::format f = packed::format_of(T);
    if constexpr (f.bytes) {
      return V::load_ints(block + G * packed::vector_bytes);
    } else {
      ints q = V::no_ints();
      if constexpr (f.nibbles)
        q = nibble_quad<G>(block);
      if constexpr (f.twos) {
        constexpr int to = f.nibbles ? 4 : 0;
        const ints v = V::load_ints(block + f.twos_offset() + G / 4 * packed::vector_bytes);
        q = V::or_bits(q, V::and_bits(V::template shifted_bytes<to - G % 4 * 2>(v), V::bytes_of(3 << to)));
      }
      if constexpr (f.ones) {
        constexpr int to = f.nibbles ? 4 : 2;
        const ints v = V::load_ints(block + f.ones_offset());
        q = V::or_bits(q, V::and_bits(V::template shifted_bytes<to - G>(v), V::bytes_of(1 << to)));
      }
      if constexpr (f.codebook)
        q = V::looked_up(packed::codebook.data(), q);
      return q;
    }
  }

  /// Scale and minimum `s` of a unit for the rows of a register: `packed::scale_at`, all rows at once.
  template <tensor_type T>
  [[gnu::always_inline]] static scales unit_scales(const std::byte* unit, std::size_t s, int reg) noexcept {
    using enum tensor_type;
    using packed::halves_bytes;
    const std::size_t first = reg * reg_rows;
    const floats d = halves(unit + first * sizeof(std::uint16_t));
    const auto second = [&]() __attribute__((always_inline)) {
      return halves(unit + halves_bytes + first * sizeof(std::uint16_t));
    };
    const auto bytes = [&](std::size_t header, std::size_t j) __attribute__((always_inline)) {
      return V::unsigned_bytes(unit + header + j * panel_rows + first);
    };
    if constexpr (T == q4_1 || T == q5_1) {
      return {d, second()};
    } else if constexpr (T == q2_k) {
      const ints both = bytes(2 * halves_bytes, s);
      return {times(d, masked(both, 0, 15)), V::negated(times(second(), masked(both, 4, 15)))};
    } else if constexpr (T == q3_k) {
      const ints low = masked(bytes(halves_bytes, s / 2), static_cast<int>(s % 2 * 4), 15);
      const ints high = masked(bytes(halves_bytes, 8 + s / 4), static_cast<int>(s % 4 * 2), 3);
      const ints six = V::or_bits(low, V::template shifted<4>(high));
      return {times(d, V::sub_ints(six, V::ints_of(32))), V::reg_of(0)};
    } else if constexpr (T == q4_k || T == q5_k) {
      const ints a = bytes(2 * halves_bytes, s);
      const ints low = masked(bytes(2 * halves_bytes, 8 + s / 2), static_cast<int>(s % 2 * 4), 15);
      const ints min = V::or_bits(low, V::template shifted<4>(masked(a, 6, 3)));
      return {times(d, masked(a, 0, 63)), V::negated(times(second(), min))};
    } else if constexpr (T == q6_k) {
      const std::byte* const bytes_of_s = unit + halves_bytes + s * panel_rows + first;
      return {V::mul_reg(d, V::load_reg(reinterpret_cast<const std::int8_t*>(bytes_of_s))), V::reg_of(0)};
    } else {
      return {d, V::reg_of(0)};
    }
  }

  /// Scale and minimum `s` of a tile.
  template <class Tile>
  [[gnu::always_inline]] static scales tile_scales(const std::byte* tile, int s, int reg) noexcept {
    const auto* const at =
        reinterpret_cast<const float*>(tile + Tile::values_bytes + s * Tile::scales_bytes) + reg * reg_rows;
    if constexpr (Tile::format.minimum)
      return {V::load_reg(at), V::load_reg(at + panel_rows)};
    else
      return {V::load_reg(at), V::reg_of(0)};
  }

  /// What takes the zero point off a dot product; `minus` is -sum(x) of its inputs.
  template <values_format F>
  [[gnu::always_inline]] static ints zero_point_term(const std::int32_t* minus) noexcept {
    if constexpr (F.minimum)
      return V::no_ints();
    else
      return V::template shifted<std::countr_zero(static_cast<unsigned>(F.zero_point))>(V::ints_of(*minus));
  }

  /// The step from dot products to the sums: see linear.hpp.
  template <values_format F>
  [[gnu::always_inline]] static floats accumulated(floats acc, ints dot, const scales& w, floats scale,
                                                   floats sum) noexcept {
    const floats product = V::fma_reg(w.scale, V::mul_reg(V::to_floats(dot), scale), acc);
    if constexpr (F.minimum)
      return V::fma_reg(w.minimum, sum, product);
    else
      return product;
  }

  /// A column of a float type, from `[columns, 16]`.
  template <tensor_type T>
  [[gnu::always_inline]] static floats column_values(const std::byte* panel, std::size_t column, int reg) noexcept {
    const std::size_t at = column * panel_rows + reg * reg_rows;
    if constexpr (T == tensor_type::f32)
      return V::load_reg(reinterpret_cast<const float*>(panel) + at);
    else if constexpr (T == tensor_type::f16)
      return V::load_reg(reinterpret_cast<const std::uint16_t*>(panel) + at);
    else
      return V::load_reg(reinterpret_cast<const bf16*>(panel) + at);
  }

private:
  [[gnu::always_inline]] static floats halves(const std::byte* p) noexcept {
    return V::load_reg(reinterpret_cast<const std::uint16_t*>(p));
  }
  [[gnu::always_inline]] static ints masked(ints v, int shift, int mask) noexcept {
    return V::and_bits(V::shifted_right(v, shift), V::ints_of(mask));
  }
  [[gnu::always_inline]] static floats times(floats a, ints b) noexcept { return V::mul_reg(a, V::to_floats(b)); }
};

/// The kernels of `linear_type` and `linear_table` that differ in nothing else. Products says how a V multiplies:
///
///     vectors                            the V
///     prefetch_distance                  bytes ahead at which `vector` fetches weights; 0: it doesn't
///     tile<T>                            the type's `tile_layout`
///     tile_values<T, G>(block)           quad G of a tile
///     dot<T, S>(block, x, minus)         the columns of scale S of a packed block, zero point taken off
template <class Products, class V = typename Products::vectors>
struct vector_kernels {
  using reader = panel_reader<V>;
  using floats = typename reader::floats;
  using ints = typename reader::ints;
  using scales = typename reader::scales;
  static constexpr int regs = reader::regs;
  static constexpr std::size_t reg_rows = reader::reg_rows, reg_bytes = reader::reg_bytes;

  template <tensor_type T>
  static void vector(const std::byte* panel, std::size_t columns, const quantised_rows& x, float* sums) {
    constexpr packed::format f = packed::format_of(T);
    constexpr int scale_count = static_cast<int>(f.block_scales());
    floats acc[regs];
    TROPILLA_UNROLL
    for (int p = 0; p < regs; ++p)
      acc[p] = V::reg_of(0);
    const std::int8_t* q = x.q;
    const float* scale = x.scale;
    const float* sum = input_sums<values_of(T)>(x);
    const std::int32_t* minus = input_minus<values_of(T)>(x);
    for (std::size_t u = 0; u < columns / f.unit_columns(); ++u, panel += f.unit_bytes()) {
      const std::byte* block = panel + f.header_bytes;
      for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), q += packed::block_columns, ++scale) {
        if constexpr (Products::prefetch_distance != 0)
          unrolled<static_cast<int>(f.block_bytes() / packed::vector_bytes)>([&](auto i) __attribute__((
              always_inline)) { __builtin_prefetch(block + Products::prefetch_distance + i * packed::vector_bytes); });
        const floats input_scale = V::reg_of(*scale);
        unrolled<scale_count>([&](auto s) __attribute__((always_inline)) {
          const floats input_sum = V::reg_of(sum[s]);
          unrolled<regs>([&](auto p) __attribute__((always_inline)) {
            const ints dot = Products::template dot<T, s>(block + p * reg_bytes, q, minus + s);
            const scales w = reader::template unit_scales<T>(panel, b * scale_count + s, p);
            acc[p] = reader::template accumulated<values_of(T)>(acc[p], dot, w, input_scale, input_sum);
          });
        });
        sum += scale_count;
        minus += scale_count;
      }
    }
    TROPILLA_UNROLL
    for (int p = 0; p < regs; ++p)
      V::store_reg(sums + p * reg_rows, acc[p]);
  }

  template <tensor_type T>
  static void unpack(const std::byte* panel, std::size_t first, std::size_t blocks, std::byte* tile) {
    using layout = typename Products::template tile<T>;
    constexpr packed::format f = packed::format_of(T);
    constexpr int scale_count = static_cast<int>(f.block_scales());
    const std::byte* unit = panel + first / f.unit_blocks * f.unit_bytes();
    for (std::size_t u = 0; u < blocks / f.unit_blocks; ++u, unit += f.unit_bytes()) {
      const std::byte* block = unit + f.header_bytes;
      for (std::size_t b = 0; b < f.unit_blocks; ++b, block += f.block_bytes(), tile += layout::block_bytes) {
        TROPILLA_UNROLL
        for (int p = 0; p < regs; ++p) {
          unrolled<layout::quads>([&](auto g) __attribute__((always_inline)) {
            V::store_ints(tile + g * packed::vector_bytes + p * reg_bytes,
                          Products::template tile_values<T, g>(block + p * reg_bytes));
          });
          TROPILLA_UNROLL
          for (int s = 0; s < scale_count; ++s) {
            const scales w = reader::template unit_scales<T>(unit, b * scale_count + s, p);
            auto* const at =
                reinterpret_cast<float*>(tile + layout::values_bytes + s * layout::scales_bytes) + p * reg_rows;
            V::store_reg(at, w.scale);
            if constexpr (f.minimum)
              V::store_reg(at + panel_rows, w.minimum);
          }
        }
      }
    }
  }

  template <tensor_type T>
  static void expand(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
    using packed::block_columns;
    constexpr packed::format f = packed::format_of(T);
    constexpr int scale_count = static_cast<int>(f.block_scales());
    for (std::size_t k = first; k < first + columns; k += block_columns, tile += block_columns * panel_rows) {
      const std::byte* unit = panel + k / f.unit_columns() * f.unit_bytes();
      const std::size_t b = k % f.unit_columns() / block_columns;
      const std::byte* block = unit + f.header_bytes + b * f.block_bytes();
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        unrolled<static_cast<int>(packed::block_quads)>([&](auto g) __attribute__((always_inline)) {
          const scales w = reader::template unit_scales<T>(unit, b * scale_count + g * scale_count / 8, p);
          const ints values = reader::template quad_values<T, g>(block + p * reg_bytes);
          unrolled<4>([&](auto i) __attribute__((always_inline)) {
            const floats q = V::to_floats(V::and_bits(V::template shifted<-8 * i>(values), V::ints_of(255)));
            float* const out = tile + (g * 4 + i) * panel_rows + p * reg_rows;
            if constexpr (f.minimum)
              V::store_reg(out, V::add_reg(V::mul_reg(w.scale, q), w.minimum));
            else
              V::store_reg(out, V::mul_reg(w.scale, V::sub_reg(q, V::reg_of(float{f.zero_point}))));
          });
        });
    }
  }

  template <tensor_type T>
  static void vector_full(const std::byte* panel, std::size_t columns, const float* x, float* sums) {
    floats acc[regs];
    TROPILLA_UNROLL
    for (int p = 0; p < regs; ++p)
      acc[p] = V::reg_of(0);
    for (std::size_t k = 0; k < columns; ++k) {
      const floats input = V::reg_of(x[k]);
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        acc[p] = V::fma_reg(reader::template column_values<T>(panel, k, p), input, acc[p]);
    }
    TROPILLA_UNROLL
    for (int p = 0; p < regs; ++p)
      V::store_reg(sums + p * reg_rows, acc[p]);
  }

  template <tensor_type T>
  static void widen(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
    for (std::size_t k = first; k < first + columns; ++k, tile += panel_rows) {
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        V::store_reg(tile + p * reg_rows, reader::template column_values<T>(panel, k, p));
    }
  }

  /// Multiplies a float32 tile with as many input rows at a time as the first of `Counts` says, what is left with as
  /// many as the second, and so on. @pre the last is 1.
  template <int... Counts>
  static void multiply_full(const float* tile, std::size_t columns, const float* x, std::size_t stride,
                            std::size_t vectors, float* sums) {
    const auto by = [&]<int C>() {
      for (; vectors >= C; vectors -= C, x += C * stride, sums += C * panel_rows)
        multiply_rows_full<C>(tile, columns, x, stride, sums);
    };
    (by.template operator()<Counts>(), ...);
  }

private:
  template <int C>
  static void multiply_rows_full(const float* tile, std::size_t columns, const float* x, std::size_t stride,
                                 float* sums) {
    floats acc[C][regs];
    TROPILLA_UNROLL
    for (int c = 0; c < C; ++c) {
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        acc[c][p] = V::load_reg(sums + c * panel_rows + p * reg_rows);
    }
    for (std::size_t k = 0; k < columns; ++k, tile += panel_rows) {
      floats w[regs];
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        w[p] = V::load_reg(tile + p * reg_rows);
      TROPILLA_UNROLL
      for (int c = 0; c < C; ++c) {
        const floats input = V::reg_of(x[c * stride + k]);
        TROPILLA_UNROLL
        for (int p = 0; p < regs; ++p)
          acc[c][p] = V::fma_reg(w[p], input, acc[c][p]);
      }
    }
    TROPILLA_UNROLL
    for (int c = 0; c < C; ++c) {
      TROPILLA_UNROLL
      for (int p = 0; p < regs; ++p)
        V::store_reg(sums + c * panel_rows + p * reg_rows, acc[c][p]);
    }
  }
};

} // namespace tropilla::host
