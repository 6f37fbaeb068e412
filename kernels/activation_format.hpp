/// Defines how devices store activations, the input of matrix products.
#pragma once

#include "kernels/ops.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace tropilla {

/// Values that share one activation scale.
inline constexpr std::size_t activation_block = 32;
/// Widths of quantised rows are padded with zeros to a multiple of this: one cache line of int8.
inline constexpr std::size_t activation_padding = 64;

/// Quantised rows. Per block of 32: `scale = max|x| / 127`, `q = round_to_nearest_even(x / scale)` (all 0 when the
/// block is). The sums save the kernels a pass: weights are stored unsigned with a zero point z, and sum((w - z) q) =
/// sum(w q) + z minus; K types and Q4_1 add a minimum times scale * sum(q). Strides are per row.
///
/// A residual_int8 activation has two of these rows for each row: the second holds what the first rounded away, in the
/// same format, so that a product is the sum of the products with both.
struct quantised_rows {
  std::int8_t* q = nullptr;        ///< [rows, padded]
  float* scale = nullptr;          ///< [rows, padded / 32]
  float* sum32 = nullptr;          ///< [rows, padded / 32]: scale * sum of the block's q
  float* sum16 = nullptr;          ///< [rows, padded / 16]: scale * sum of the half block's q
  std::int32_t* minus32 = nullptr; ///< [rows, padded / 32]: -sum of the block's q
  std::int32_t* minus16 = nullptr; ///< [rows, padded / 16]: -sum of the half block's q
  std::size_t padded = 0;

  /// The rows from row `row` and block `block` on. Always inlined: files for several instruction sets use it.
  [[nodiscard, gnu::always_inline]] constexpr quantised_rows from(std::size_t row, std::size_t block) const noexcept {
    const std::size_t at = row * (padded / activation_block) + block;
    return {q + row * padded + block * activation_block,
            scale + at,
            sum32 + at,
            sum16 + 2 * at,
            minus32 + at,
            minus16 + 2 * at,
            padded};
  }

  friend bool operator==(const quantised_rows&, const quantised_rows&) = default;
};

/// Pointers to what an activation's buffer holds. All are 64-byte aligned.
struct activation_view {
  quantised_rows quantised;  ///< null pointers when the kind has none
  std::size_t int8_rows = 1; ///< quantised rows per row: 2 when residual_int8
  float* full = nullptr;     ///< [rows, full_stride], or null
  std::size_t full_stride = 0;

  /// The same from row `row` on. GPUs call it, too.
  [[nodiscard]] constexpr activation_view from(std::size_t row) const noexcept {
    activation_view out = *this;
    if (quantised.q != nullptr)
      out.quantised = quantised.from(row * int8_rows, 0);
    if (full != nullptr)
      out.full = full + row * full_stride;
    return out;
  }

  friend bool operator==(const activation_view&, const activation_view&) = default;
};

/// One of the arrays of an activation: rows of so many bytes for each `activation_padding` values.
struct activation_array {
  std::byte* data = nullptr; ///< null: the activation has no such array
  std::size_t stride = 0;    ///< bytes from row to row
  std::size_t unit = 0;      ///< bytes
};
using activation_arrays = std::array<activation_array, 7>;
/// All arrays of an activation. Not of a residual_int8 one, which has two rows of each for a row.
[[nodiscard]] activation_arrays arrays_of(const activation_view& view) noexcept;

[[nodiscard]] std::size_t activation_buffer_bytes(activation_kind kind, std::size_t rows, std::size_t width) noexcept;
/// `precise` means that the buffer holds float32 whatever its kind.
[[nodiscard]] activation_view view_of(const activation& a, bool precise) noexcept;

} // namespace tropilla
