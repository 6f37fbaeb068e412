// CUDA kernels for rows between matrix products: embedding, norms, gates, and storing activations.
//
// A warp stores a block of 32 columns, each lane one number. The formulas are those of
// `host/elementwise_kernels_impl.hpp`.
#include "kernels/cuda/dispatch.hpp"
#include "kernels/cuda/packed_tile.hpp"
#include "memory/rounding.hpp"

#include <algorithm>

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr unsigned warps = warps_of_block(8);
constexpr unsigned threads = warps * warp_size;

/// The destination of a row of an activation; null pointers to what its kind does not hold.
struct stored_row {
  activation_view to; ///< from the row on

  /// Stores one block. Called by a whole warp; `x` is 0 behind the row's width.
  __device__ void store(float x, unsigned lane, std::size_t block) const {
    if (to.full != nullptr && block * activation_block + lane < to.full_stride)
      to.full[block * activation_block + lane] = x;
    if (to.quantised.q == nullptr)
      return;
    for (std::size_t n = 0; n < to.int8_rows; ++n)
      x = store_int8(x, lane, block + n * (to.quantised.padded / activation_block));
  }

private:
  /// Stores a block of one int8 row; returns what was rounded away.
  __device__ float store_int8(float x, unsigned lane, std::size_t at) const {
    const quantised_rows& quantised = to.quantised;
    // Below, 127 / largest would overflow, and the block adds nothing to any product.
    constexpr float smallest = 1e-36F;
    const float largest = warp_max(fabsf(x));
    const bool empty = !(largest >= smallest);
    const float scale = empty ? 0.0F : largest / 127.0F;
    const float rounded = rintf(x * (empty ? 0.0F : 127.0F / largest));
    const int q = static_cast<int>(rounded);
    quantised.q[at * activation_block + lane] = static_cast<std::int8_t>(q);
    const int half_sum = warp_sum<16>(q);
    const int low = __shfl_sync(all_lanes, half_sum, 0), high = __shfl_sync(all_lanes, half_sum, 16);
    if (lane == 0) {
      quantised.scale[at] = scale;
      quantised.minus16[2 * at] = -low;
      quantised.minus16[2 * at + 1] = -high;
      quantised.minus32[at] = -(low + high);
      quantised.sum16[2 * at] = scale * static_cast<float>(low);
      quantised.sum16[2 * at + 1] = scale * static_cast<float>(high);
      quantised.sum32[at] = scale * static_cast<float>(low + high);
    }
    return fmaf(rounded, -scale, x);
  }
};

/// Blocks that a row of an activation has: as many as hold its padded width.
unsigned blocks_of(const activation_view& view, std::size_t width) noexcept {
  const std::size_t padded = view.quantised.q != nullptr ? view.quantised.padded : view.full_stride;
  return static_cast<unsigned>(divide_up(std::max(padded, width), activation_block));
}

/// Stores a row, one block of threads each: `value(column)` for columns before `width`.
template <class F>
__device__ void store_row(const activation_view& to, std::size_t width, unsigned blocks, F value) {
  const stored_row out{to.from(blockIdx.x)};
  const unsigned lane = threadIdx.x % warp_size;
  for (unsigned b = threadIdx.x / warp_size; b < blocks; b += warps) {
    const std::size_t k = std::size_t{b} * activation_block + lane;
    out.store(k < width ? value(k) : 0.0F, lane, b);
  }
}

__global__ void __launch_bounds__(threads) norm_rows(const float* x, const float* weight, float epsilon,
                                                     std::size_t width, activation_view out, unsigned blocks) {
  griddepcontrol_wait();
  const float* const row = x + blockIdx.x * width;
  float sum = 0;
  for (std::size_t k = threadIdx.x; k < width; k += threads)
    sum = fmaf(row[k], row[k], sum);
  sum = warp_sum(sum);
  __shared__ float sums[warps];
  if (threadIdx.x % warp_size == 0)
    sums[threadIdx.x / warp_size] = sum;
  __syncthreads();
  float total = 0;
  for (unsigned w = 0; w < warps; ++w)
    total += sums[w];
  const float factor = 1.0F / sqrtf(total / static_cast<float>(width) + epsilon);
  store_row(out, width, blocks, [=](std::size_t k) { return row[k] * factor * weight[k]; });
}

__global__ void __launch_bounds__(threads)
    store_rows(const float* x, std::size_t stride, std::size_t width, activation_view out, unsigned blocks) {
  griddepcontrol_wait();
  const float* const row = x + blockIdx.x * stride;
  store_row(out, width, blocks, [=](std::size_t k) { return row[k]; });
}

__global__ void __launch_bounds__(threads) swiglu_rows(const float* gate, const float* up, std::size_t stride,
                                                       std::size_t width, activation_view out, unsigned blocks) {
  griddepcontrol_wait();
  const float* const g = gate + blockIdx.x * stride;
  const float* const u = up + blockIdx.x * stride;
  store_row(out, width, blocks, [=](std::size_t k) { return swiglu(g[k], u[k]); });
}

/// A warp unpacks a block of columns of one row.
template <tensor_type T>
__global__ void __launch_bounds__(threads)
    embed_rows(const std::byte* panels, std::size_t panel_bytes, std::uint32_t rows, std::uint32_t columns,
               std::int32_t first, const std::int32_t* ids, float* x) {
  griddepcontrol_wait();
  const auto id = static_cast<std::uint32_t>(ids[blockIdx.x] - first); // huge where it is less
  const std::byte* const panel = panels + id / panel_rows * panel_bytes;
  const unsigned row = id % panel_rows;
  float* const out = x + std::size_t{blockIdx.x} * columns;
  if (id >= rows) {
    for (std::size_t k = threadIdx.x; k < columns; k += threads)
      out[k] = 0;
    return;
  }
  if constexpr (packed::is_float(T)) {
    for (std::size_t k = threadIdx.x; k < columns; k += threads) {
      const std::size_t at = k * panel_rows + row;
      if constexpr (T == tensor_type::f32)
        out[k] = reinterpret_cast<const float*>(panel)[at];
      else if constexpr (T == tensor_type::f16)
        out[k] = to_float(reinterpret_cast<const std::uint16_t*>(panel)[at]);
      else
        out[k] = bf16_to_float32(reinterpret_cast<const std::uint16_t*>(panel)[at]);
    }
  } else {
    constexpr packed::format f = packed::format_of(T);
    const unsigned lane = threadIdx.x % warp_size;
    for (unsigned b = threadIdx.x / warp_size; b < columns / activation_block; b += warps) {
      const std::byte* const unit = panel + b / f.unit_blocks * f.unit_bytes();
      const unsigned in_unit = b % f.unit_blocks;
      const auto q = quad_rows<T, 1>(unit + f.header_bytes + in_unit * f.block_bytes(), lane / 4, row);
      constexpr unsigned scales = f.block_scales(), scale_columns = f.scale_columns;
      const auto w = unit_scales<T, 1>(unit, row, in_unit * scales + lane / scale_columns);
      const int value = static_cast<std::int8_t>(q.row[0] >> (lane % 4 * 8));
      out[b * activation_block + lane] = f.minimum ? w.scale[0] * static_cast<float>(value) + w.minimum[0]
                                                   : w.scale[0] * static_cast<float>(value - zero_point<T>);
    }
  }
}

__global__ void __launch_bounds__(threads)
    gather(const float* x, std::size_t width, const std::uint32_t* rows, float* out) {
  griddepcontrol_wait();
  const float* const from = x + rows[blockIdx.x] * width;
  for (std::size_t k = threadIdx.x; k < width; k += threads)
    out[blockIdx.x * width + k] = from[k];
}

dim3 one_block_each(std::size_t rows) noexcept {
  return {static_cast<unsigned>(rows)};
}

} // namespace

void launch(void* stream, const call::embed& c) {
  if (c.rows == 0)
    return;
  const packed_layout& w = c.table.layout;
  const auto launch_embed = [&]<tensor_type T>() {
    launch(stream, one_block_each(c.rows), threads, embed_rows<T>, c.table.data, w.panel_bytes,
           static_cast<std::uint32_t>(w.rows), static_cast<std::uint32_t>(w.columns), c.first, c.ids, c.x);
  };
  if (w.type == tensor_type::f32)
    launch_embed.template operator()<tensor_type::f32>();
  else if (w.type == tensor_type::f16)
    launch_embed.template operator()<tensor_type::f16>();
  else if (w.type == tensor_type::bf16)
    launch_embed.template operator()<tensor_type::bf16>();
  else
    packed::with_quantised(w.type, launch_embed);
}

void launch(void* stream, const call::rms_norm& c) {
  if (c.rows != 0)
    launch(stream, one_block_each(c.rows), threads, norm_rows, c.x, c.weight, c.epsilon, c.width, c.out,
           blocks_of(c.out, c.width));
}

void launch(void* stream, const call::store& c) {
  if (c.rows != 0)
    launch(stream, one_block_each(c.rows), threads, store_rows, c.x, c.stride, c.width, c.out,
           blocks_of(c.out, c.width));
}

void launch(void* stream, const call::store_swiglu& c) {
  if (c.rows != 0)
    launch(stream, one_block_each(c.rows), threads, swiglu_rows, c.gate, c.up, c.stride, c.width, c.out,
           blocks_of(c.out, c.width));
}

void launch(void* stream, const call::gather_rows& c) {
  if (c.count != 0)
    launch(stream, one_block_each(c.count), threads, gather, c.x, c.width, c.rows, c.out);
}

} // namespace tropilla::TROPILLA_CUDA_NS
