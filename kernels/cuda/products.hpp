/// Targets and order of sums that all kernels of matrix products share. For the sources of this folder only.
///
/// An input's bits do not depend on the others, so every kernel adds in one order: columns are divided into chunks, the
/// sum of a chunk begins at zero and takes block after block, and the sums of chunks are added in their order.
#pragma once

#include "kernels/cuda/dispatch.hpp"
#include "kernels/packed_format.hpp"
#include "memory/rounding.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

inline constexpr auto rows_of_panel = static_cast<unsigned>(panel_rows);
inline constexpr auto block_columns = static_cast<unsigned>(packed::block_columns);
inline constexpr unsigned chunks = 16;

/// Block at which chunk `c` of `blocks` begins.
__device__ inline unsigned chunk_begin(unsigned c, unsigned blocks) {
  return c * blocks / chunks;
}

/// The fields of a `linear_target` that the kernels need.
struct product_target {
  const std::byte* panels;
  std::size_t panel_bytes;
  float* out;
  std::size_t stride;
  std::uint32_t rows;
  bool accumulate;
};

/// Targets of one type and width; their panels are numbered one after another.
struct products {
  static constexpr unsigned max_targets = call::linear::max_targets;
  product_target of[max_targets];
  unsigned first_panel[max_targets];
  unsigned count, panels;
  std::uint32_t columns;

  [[nodiscard]] __device__ unsigned blocks() const { return divide_up(columns, block_columns); }
};

/// A panel, and where its sums go.
struct panel_of_product {
  product_target target;
  unsigned panel;

  __device__ panel_of_product(const products& p, unsigned number) : target(p.of[0]), panel(number) {
    for (unsigned i = 1; i < products::max_targets; ++i)
      if (i < p.count && number >= p.first_panel[i]) {
        target = p.of[i];
        panel = number - p.first_panel[i];
      }
  }
  [[nodiscard]] __device__ const std::byte* weights() const { return target.panels + panel * target.panel_bytes; }
  /// `row` is one of the panel's.
  __device__ void store(unsigned input, unsigned row, float sum) const {
    row += panel * rows_of_panel;
    if (row >= target.rows)
      return;
    float& out = target.out[input * target.stride + row];
    out = target.accumulate ? out + sum : sum;
  }
};

/// The same targets from input row `first` on.
inline products after(products p, std::size_t first) {
  for (unsigned i = 0; i < p.count; ++i)
    p.of[i].out += first * p.of[i].stride;
  return p;
}

// linear_wgmma.cu

/// Rounds the inputs into `rounded` (`cuda::rounded_bytes`), and multiplies them. For GPUs that have Hopper's
/// warpgroups.
/// @pre cuda::wgmma_fits
void gemm_wgmma(void* stream, const activation_view& input, unsigned count, tensor_type type, const products& p,
                std::byte* rounded);

} // namespace tropilla::TROPILLA_CUDA_NS
