/// Matrix products of the host: packed weights times activations, shared between the workers of a team.
///
/// All instruction sets compute the same formula in the same order, so their results are equal bit for bit, whatever
/// the number of rows, workers or targets. For one output (weight row r, input row c), over k in order:
///
///   per 32 columns (16 where the type has a scale per 16), with the weights' unsigned values w and int8 inputs x:
///     dot = sum(w x), less z sum(x) with a zero point z  exact, int32
///     acc = fma(scale_r, dot * scale_c, acc)
///     with a minimum:  acc = fma(minimum_r, sum_c, acc)
///   float weights, and every weight when computing precisely:
///     acc = fma(w, x, acc) per column
///
/// `scale_c` and `sum_c` (scale_c * sum(x)) come with the activation. `acc` starts at 0; `out` is set to it or has it
/// added. A residual_int8 input row counts as two input rows, whose `acc` are added.
///
/// Many input rows share the work of unpacking: a tile of one or two panels and some columns is unpacked once into
/// the worker's scratch, then meets every input row from the first-level cache. One input row is bound by the bandwidth
/// of memory, and unpacks in registers; so do a few, which would wait for memory while a tile is unpacked.
#pragma once

#include "kernels/activation_format.hpp"
#include "kernels/host/elementwise_kernels.hpp"
#include "kernels/host/team.hpp"
#include "kernels/ops.hpp"

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace tropilla::host {

/// The kernels of one tensor type. `sums` has one float per row of the panel and
/// input row: `[vectors, 16]`.
struct linear_type {
  /// `sums = panel * x` for one input row; `columns` of the whole row. Quantised types.
  void (*vector)(const std::byte* panel, std::size_t columns, const quantised_rows& x, float* sums) = nullptr;
  /// Unpacks blocks of 32 columns into a tile. @pre `first` and `blocks` are multiples of the type's unit.
  void (*unpack)(const std::byte* panel, std::size_t first, std::size_t blocks, std::byte* tile) = nullptr;
  /// `sums += tile * x` for many input rows; `x` begins at the tile's first column.
  void (*multiply)(const std::byte* tile, std::size_t blocks, const quantised_rows& x, std::size_t vectors,
                   float* sums) = nullptr;
  /// The same for the tiles of two panels, the second behind the first; so are their sums, `[2, vectors, 16]`.
  /// Null where a pair gains nothing.
  void (*multiply_pair)(const std::byte* tiles, std::size_t blocks, const quantised_rows& x, std::size_t vectors,
                        float* sums) = nullptr;
  /// Bytes of an unpacked block, a multiple of 64.
  std::size_t tile_block_bytes = 0;
  /// `sums = panels * x` for two panels, `panel_bytes` apart, and a few input rows, without a tile; sums as of
  /// `multiply_pair`. Null where that gains nothing.
  void (*gemm_small)(const std::byte* panel, std::size_t panel_bytes, std::size_t columns, const quantised_rows& x,
                     std::size_t vectors, float* sums) = nullptr;
  /// `sums = panel * x` for one float32 input row. F32, F16 and BF16.
  void (*vector_full)(const std::byte* panel, std::size_t columns, const float* x, float* sums) = nullptr;
  /// Float32 values of columns `[first, first + columns)` as `[columns, 16]`.
  /// @pre for quantised types, `first` and `columns` are multiples of the type's unit.
  void (*expand)(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) = nullptr;
};

/// The kernels of one instruction set.
struct linear_table {
  std::string_view isa;
  std::array<linear_type, 31> types; ///< by `tensor_type`
  /// `sums += tile * x`: `tile` is `[columns, 16]`, `x` is `[vectors, stride]`.
  void (*multiply_full)(const float* tile, std::size_t columns, const float* x, std::size_t stride, std::size_t vectors,
                        float* sums) = nullptr;
};

/// "scalar", "avx2" or "avx512"; does not ask whether the machine has it. Throws `error` (invalid_argument) for others.
[[nodiscard]] const linear_table& linear_kernels(std::string_view isa);

/// Bytes of one worker's scratch, 64-byte aligned, for matrices of any width.
[[nodiscard]] std::size_t linear_scratch_bytes() noexcept;

/// `out[r] (+)= input[r] * weight^T` for each target and the first `rows` rows of `input`. Every worker calls it with
/// the same arguments and its own scratch; the workers share the work, and there is no barrier at the end. `precise`
/// means that activations are float32 whatever their kind.
void linear(const linear_table& table, worker_context& worker, std::byte* worker_scratch, const activation& input,
            bool precise, std::size_t rows, std::span<const linear_target> targets);

/// `out[r] = silu(input[r] * gate^T) * (input[r] * up^T)`, stored as an activation: `linear` with both matrices, then
/// `elementwise_kernels::store_swiglu`, without the floats between them ever leaving a worker's scratch. Else as
/// `linear`.
/// @pre gate and up have `out.width` rows.
void gated_linear(const linear_table& table, const elementwise_kernels& kernels, worker_context& worker,
                  std::byte* worker_scratch, const activation& input, bool precise, std::size_t rows,
                  const packed_matrix& gate, const packed_matrix& up, const activation& out);

namespace scalar {
[[nodiscard]] const linear_table& linear_kernels() noexcept;
}
namespace avx2 {
[[nodiscard]] const linear_table& linear_kernels() noexcept;
}
namespace avx512 {
[[nodiscard]] const linear_table& linear_kernels() noexcept;
}
/// The AVX-512 kernels on any machine, for tests: compiled through an emulation, and not part of the library.
namespace avx512_emulated {
[[nodiscard]] const linear_table& linear_kernels() noexcept;
}

} // namespace tropilla::host
