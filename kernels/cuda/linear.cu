// Matrix products of packed weights and a few rows.
//
// A block of eight warps has one row group of sixteen rows. In quantised types half a warp reads one block of 32
// columns, sixteen bytes a thread: thread 4 v + r has four rows (r) of groups v and v + 4. What a thread sums of its
// rows is added up over the threads that have the same ones: in the warp first, then over the warps, always in this
// order.
#include "kernels/cuda/kernel_parts.hpp"
#include "kernels/cuda/packed_words.hpp"

#include <algorithm>

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr unsigned warps = warps_of_block(8);
constexpr auto group_rows = static_cast<unsigned>(packed_row_group);
constexpr unsigned threads = warps * warp_size;
/// Input rows (parts of them count) that meet a weight once it is read.
constexpr unsigned most_rows = 8;

/// What the kernels need of a `linear_target`.
struct product_target {
  const std::byte* groups;
  std::size_t group_bytes;
  std::uint32_t columns;
  std::uint32_t rows;
  float* out;
  std::size_t stride;
  bool accumulate;
};

/// Adds up what threads have of the same rows, and the parts of an input row, and stores the sums. `R` rows of `C`
/// inputs are a thread's, those from `R` times its place among 16 / R lanes on.
template <unsigned C, unsigned R>
__device__ void store_sums(const float (&acc)[C][R], const product_target& t, unsigned parts) {
  constexpr unsigned holders = group_rows / R; // lanes that have all rows between them
  __shared__ float sums[warps][C][group_rows];
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (unsigned c = 0; c < C; ++c)
    for (unsigned i = 0; i < R; ++i) {
      float sum = acc[c][i];
      for (unsigned distance = holders; distance < warp_size; distance *= 2)
        sum += __shfl_xor_sync(all_lanes, sum, static_cast<int>(distance));
      if (lane < holders)
        sums[warp][c][lane * R + i] = sum;
    }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < C / parts * group_rows; i += threads) {
    const unsigned input = i / group_rows, in_group = i % group_rows;
    const unsigned row = blockIdx.x * group_rows + in_group;
    float sum = 0;
    for (unsigned p = 0; p < parts; ++p)
      for (unsigned w = 0; w < warps; ++w)
        sum += sums[w][input * parts + p][in_group];
    if (row < t.rows) {
      float& out = t.out[input * t.stride + row];
      out = t.accumulate ? out + sum : sum;
    }
  }
}

/// The inputs' numbers of one block of columns, as one input row has them.
template <tensor_type T>
struct block_inputs {
  static constexpr unsigned scales = packed::format_of(T).block_scales();

  int low, high; ///< of the thread's two groups
  float scale;
  int start[scales]; ///< what takes the zero point off, in the thread that adds it
  float sum[scales]; ///< for the minimum

  __device__ block_inputs(const quantised_rows& x, unsigned c, unsigned b, unsigned v) {
    const std::size_t at = c * (x.padded / activation_block) + b;
    const auto* q = reinterpret_cast<const int*>(x.q + c * x.padded + b * activation_block);
    low = q[v];
    high = q[v + 4];
    scale = x.scale[at];
    for (unsigned s = 0; s < scales; ++s) {
      const std::size_t i = at * scales + s;
      start[s] = v == 0 && zero_point<T> != 0 ? zero_point<T> * (scales == 2 ? x.minus16 : x.minus32)[i] : 0;
      sum[s] = v == 0 && packed::format_of(T).minimum ? (scales == 2 ? x.sum16 : x.sum32)[i] : 0.0F;
    }
  }
};

template <tensor_type T, unsigned C>
__global__ void __launch_bounds__(threads) few_rows(product_target t, quantised_rows x, unsigned parts) {
  constexpr packed::format f = packed::format_of(T);
  constexpr unsigned scales = f.block_scales();
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const unsigned rows = lane % 4, v = lane / 4 % 4;
  const std::byte* const group = t.groups + blockIdx.x * t.group_bytes;
  const unsigned blocks = t.columns / activation_block;
  float acc[C][4] = {};
  for (unsigned b = 2 * warp + lane / 16; b < blocks; b += 2 * warps) {
    const std::byte* const unit = group + b / f.unit_blocks * f.unit_bytes();
    const unsigned in_unit = b % f.unit_blocks;
    const std::byte* const block = unit + f.header_bytes + in_unit * f.block_bytes();
    const quad low = group_quad<T>(block, v, rows), high = group_quad<T>(block, v + 4, rows);
    quad_scales w[scales];
    for (unsigned s = 0; s < scales; ++s)
      w[s] = unit_scales<T>(unit, rows, in_unit * scales + s);
    for (unsigned c = 0; c < C; ++c) {
      const block_inputs<T> in(x, c, b, v);
      for (unsigned i = 0; i < 4; ++i) {
        // Groups below 4 have the first of two scales.
        int dot[scales];
        dot[0] = __dp4a(low.row[i], in.low, in.start[0]);
        if constexpr (scales == 2)
          dot[1] = __dp4a(high.row[i], in.high, in.start[1]);
        else
          dot[0] = __dp4a(high.row[i], in.high, dot[0]);
        for (unsigned s = 0; s < scales; ++s) {
          acc[c][i] = fmaf(w[s].scale[i], static_cast<float>(dot[s]) * in.scale, acc[c][i]);
          if constexpr (f.minimum)
            acc[c][i] = fmaf(w[s].minimum[i], in.sum[s], acc[c][i]);
        }
      }
    }
  }
  store_sums(acc, t, parts);
}

/// Float types: a thread reads sixteen bytes of one column.
template <tensor_type T>
struct column_piece {
  static constexpr unsigned rows = T == tensor_type::f32 ? 4 : 8;
  static constexpr unsigned threads = packed_row_group / rows; ///< that have a column between them
  float value[rows];

  __device__ explicit column_piece(const std::byte* p) {
    const quad q = load_quad(p);
    for (unsigned i = 0; i < 4; ++i) {
      const auto word = static_cast<unsigned>(q.row[i]);
      if constexpr (T == tensor_type::f32) {
        value[i] = __uint_as_float(word);
      } else {
        const auto low = static_cast<std::uint16_t>(word), high = static_cast<std::uint16_t>(word >> 16);
        value[2 * i] = T == tensor_type::f16 ? to_float(low) : bf16_to_float32(low);
        value[2 * i + 1] = T == tensor_type::f16 ? to_float(high) : bf16_to_float32(high);
      }
    }
  }
};

template <tensor_type T, unsigned C>
__global__ void __launch_bounds__(threads) few_rows_full(product_target t, const float* x, std::size_t x_stride) {
  using piece = column_piece<T>;
  constexpr unsigned at_once = warp_size / piece::threads; // columns of a warp
  constexpr unsigned element = T == tensor_type::f32 ? 4 : 2;
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const unsigned part = lane % piece::threads;
  const std::byte* const group = t.groups + blockIdx.x * t.group_bytes;
  float acc[C][piece::rows] = {};
  for (unsigned k = warp * at_once + lane / piece::threads; k < t.columns; k += warps * at_once) {
    const piece w(group + (std::size_t{k} * packed_row_group + part * piece::rows) * element);
    for (unsigned c = 0; c < C; ++c) {
      const float in = x[c * x_stride + k];
      for (unsigned i = 0; i < piece::rows; ++i)
        acc[c][i] = fmaf(w.value[i], in, acc[c][i]);
    }
  }
  store_sums(acc, t, 1);
}

/// Calls `f.template operator()<C>(first)` until all of `rows` input rows had their turn, C a power of two.
template <unsigned C = most_rows, class F>
void by_rows(std::size_t rows, std::size_t least, F f, std::size_t first = 0) {
  for (; first + C <= rows; first += C)
    f.template operator()<C>(first);
  if constexpr (C > 1)
    if (first < rows && C / 2 >= least)
      by_rows<C / 2>(rows, least, f, first);
}

} // namespace

void linear(void* stream, const activation_parts& input, std::size_t rows, const linear_target& target) {
  const packed_layout& w = target.weight.layout;
  if (rows == 0 || w.rows == 0)
    return;
  product_target t{target.weight.data,
                   w.group_bytes,
                   static_cast<std::uint32_t>(w.columns),
                   static_cast<std::uint32_t>(w.rows),
                   target.out,
                   target.stride,
                   target.accumulate};
  const dim3 grid(static_cast<unsigned>(w.row_groups()));
  if (packed::is_float(w.type)) {
    by_rows(rows, 1, [&]<unsigned C>(std::size_t first) {
      t.out = target.out + first * target.stride;
      const float* const x = input.full + first * input.full_stride;
      if (w.type == tensor_type::f32)
        launch(stream, grid, threads, few_rows_full<tensor_type::f32, C>, t, x, input.full_stride);
      else if (w.type == tensor_type::f16)
        launch(stream, grid, threads, few_rows_full<tensor_type::f16, C>, t, x, input.full_stride);
      else
        launch(stream, grid, threads, few_rows_full<tensor_type::bf16, C>, t, x, input.full_stride);
    });
    return;
  }
  const auto parts = static_cast<unsigned>(input.row_parts);
  packed::with_quantised(w.type, [&]<tensor_type T>() {
    by_rows(rows * parts, parts, [&]<unsigned C>(std::size_t first) {
      t.out = target.out + first / parts * target.stride;
      launch(stream, grid, threads, few_rows<T, C>, t, input.quantised.from(first, 0), parts);
    });
  });
}

} // namespace tropilla::TROPILLA_CUDA_NS
