/// Kernels for rows of activations between matrix products: norms, gates, rotations, and storing them.
///
/// One table per instruction set; all give the same bits. Pure functions over memory of the caller, any thread.
#pragma once

#include "kernels/activation_format.hpp"
#include "kernels/host/bf16.hpp"

#include <cstddef>
#include <cstdint>

namespace tropilla::host {

/// Values of a row that are stored as one piece of work.
inline constexpr std::size_t row_piece = activation_padding;

/// The destination of one row of an activation. Null pointers to what its kind does not hold.
struct row_target {
  std::int8_t* q = nullptr;
  float* scale = nullptr;
  float* sum32 = nullptr;
  float* sum16 = nullptr;
  std::int32_t* minus32 = nullptr;
  std::int32_t* minus16 = nullptr;
  std::size_t rest = 0; ///< where not 0, what is rounded away goes into the row that begins so many values later
  float* full = nullptr;
  std::size_t full_stride = 0; ///< floats of the row, zeros after the width
};

/// The row that holds what `row` rounds away. @pre `row.rest` is not 0.
[[nodiscard, gnu::always_inline]] constexpr row_target rest_of(const row_target& row) noexcept {
  const std::size_t blocks = row.rest / activation_block;
  return {row.q + row.rest,       row.scale + blocks,   row.sum32 + blocks,
          row.sum16 + 2 * blocks, row.minus32 + blocks, row.minus16 + 2 * blocks};
}

/// Row `row` of an activation.
[[nodiscard]] constexpr row_target row_of(const activation_view& view, std::size_t row) noexcept {
  const activation_view from = view.from(row);
  const quantised_rows& q = from.quantised;
  row_target out{q.q, q.scale, q.sum32, q.sum16, q.minus32, q.minus16};
  out.rest = q.q != nullptr && from.int8_rows > 1 ? q.padded : 0;
  out.full = from.full;
  out.full_stride = from.full != nullptr ? from.full_stride : 0;
  return out;
}

/// The rest of `row` from piece `piece` on.
[[nodiscard]] constexpr row_target piece_of(const row_target& row, std::size_t piece) noexcept {
  const std::size_t at = piece * row_piece;
  const std::size_t block = at / activation_block;
  row_target out = row;
  if (row.q != nullptr) {
    out.q += at;
    out.scale += block;
    out.sum32 += block;
    out.sum16 += 2 * block;
    out.minus32 += block;
    out.minus16 += 2 * block;
  }
  if (row.full != nullptr) {
    out.full += at;
    out.full_stride -= at;
  }
  return out;
}

/// The kernels of one instruction set. `first` and `last` count pieces of `row_piece` values; the last piece of a row
/// may be short, and what it lacks is stored as zeros.
struct elementwise_kernels {
  /// `1 / sqrt(mean(x^2) + epsilon)`.
  float (*inverse_rms)(const float* x, std::size_t width, float epsilon) noexcept;
  /// Stores `x * factor * weight`.
  void (*store_scaled)(const float* x, float factor, const float* weight, std::size_t width, std::size_t first,
                       std::size_t last, const row_target& out) noexcept;
  /// Stores `x`.
  void (*store_plain)(const float* x, std::size_t width, std::size_t first, std::size_t last,
                      const row_target& out) noexcept;
  /// Stores `gate / (1 + exp(-gate)) * up`.
  void (*store_swiglu)(const float* gate, const float* up, std::size_t width, std::size_t first, std::size_t last,
                       const row_target& out) noexcept;
  /// Rotates the neighbouring pairs of the first `dims` values of `in` and copies the rest; `in` may be `out`.
  void (*rotate)(const float* in, float* out, std::size_t size, std::size_t dims, const float* cosines,
                 const float* sines) noexcept;
  /// Rounds to IEEE half; what exceeds its range becomes its largest number.
  void (*to_half)(const float* in, std::uint16_t* out, std::size_t size) noexcept;
  /// Rounds to bfloat16, in the same way.
  void (*to_bf16)(const float* in, bf16* out, std::size_t size) noexcept;
  /// Rounds to int8 with a half as scale per `kv_block` values. The scale is rounded first and the values fit what
  /// became of it, so a block's largest is off by no more than half a step.
  void (*to_q8)(const float* in, std::int8_t* out, std::uint16_t* scales, std::size_t size) noexcept;
};

namespace scalar {
[[nodiscard]] const elementwise_kernels& rows() noexcept;
}
namespace avx2 {
[[nodiscard]] const elementwise_kernels& rows() noexcept;
}
namespace avx512 {
[[nodiscard]] const elementwise_kernels& rows() noexcept;
}
/// The AVX-512 sources over SIMDe, on AVX2: in the library of the tests only.
namespace avx512_emulated {
[[nodiscard]] const elementwise_kernels& rows() noexcept;
}

} // namespace tropilla::host
