/// Defines how host devices store activations, the input of matrix products.
#pragma once

#include "kernels/ops.hpp"

#include <cstddef>
#include <cstdint>

namespace tropilla::host {

/// Values that share one activation scale.
inline constexpr std::size_t activation_block = 32;

/// Quantised rows. Per block of 32: `scale = max|x| / 127`, `q = round_to_nearest_even(x / scale)` (all 0 when the
/// block is). The sums save the kernels a pass: weights are stored unsigned with a zero point z, and sum((w - z) q) =
/// sum(w q) + z minus; K types and Q4_1 add a minimum times scale * sum(q). Widths are padded with zeros to a multiple
/// of 64; strides are per row.
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

/// Places of the parts of an activation buffer. All parts are 64-byte aligned.
struct activation_parts {
  quantised_rows quantised;  ///< null pointers when the kind has none
  std::size_t row_parts = 1; ///< quantised rows per row: 2 when residual_int8
  float* full = nullptr;     ///< [rows, full_stride], or null
  std::size_t full_stride = 0;

  friend bool operator==(const activation_parts&, const activation_parts&) = default;
};

/// The same from row `row` on. GPUs call it, too.
[[nodiscard]] constexpr activation_parts parts_from(const activation_parts& parts, std::size_t row) noexcept {
  activation_parts out = parts;
  if (parts.quantised.q != nullptr)
    out.quantised = parts.quantised.from(row * parts.row_parts, 0);
  if (parts.full != nullptr)
    out.full = parts.full + row * parts.full_stride;
  return out;
}

[[nodiscard]] std::size_t activation_buffer_bytes(activation_kind kind, std::size_t rows, std::size_t width) noexcept;
[[nodiscard]] activation_parts locate(const activation& a, bool precise) noexcept;

} // namespace tropilla::host
