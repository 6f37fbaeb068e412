// CUDA kernels for matrix products of packed weights, on tensor cores.
//
// A warp multiplies a panel (sixteen rows) with eight inputs at a time, a block of 32 columns after the other.
// Weights are the first operand: its row g is row 2 g of the panel, and its row g + 8 row 2 g + 1, so that a lane's two
// rows are neighbours and a load of eight bytes has both. Of quantised types the sum over a block (or over half of one,
// where scales are for sixteen columns) is exact, and then scaled.
//
// With few inputs the warps of a block have different chunks of the same rows; with many they have different rows and
// inputs. The order of sums is that of `products.hpp`.
#include "kernels/cuda/mma.hpp"
#include "kernels/cuda/packed_tile.hpp"
#include "kernels/cuda/products.hpp"
#include "memory/rounding.hpp"

#include <algorithm>

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr unsigned tile_inputs = 8; // of one product of a warp

// Inputs of a block of threads where there are many: warps lie in `many_row_warps` rows of `many_input_warps`, each
// with `many_panels` panels and `many_tiles` tiles of inputs.
constexpr unsigned many_warps = warps_of_block(8), many_threads = many_warps * warp_size;
constexpr unsigned many_input_warps = 2, many_row_warps = many_warps / many_input_warps;
constexpr unsigned many_panels = 2, many_tiles = 8;
constexpr unsigned many_inputs_of_block = many_input_warps * many_tiles * tile_inputs;

/// How many of so many things a thread of a block gets at most.
constexpr unsigned for_each_thread(unsigned things) {
  return divide_up(things, many_threads);
}
/// Calls `f` with how many of `Things` the thread had before, and which one it has now.
template <unsigned Things, class F>
__device__ void each_of_thread(F f) {
  TROPILLA_UNROLL
  for (unsigned j = 0; j < for_each_thread(Things); ++j)
    if (const unsigned i = j * many_threads + threadIdx.x; i < Things)
      f(j, i);
}

// -- what lanes have of a block of columns ---------------------------------------------------------------------------
//
// For each kind of weights: `inputs`, as they lie in memory; a lane's `weights` and its `operands`, the numbers of
// inputs; `multiply`, which adds their product; and a `stage` of several blocks of columns in shared memory, for which
// inputs are `fetched` into registers first, so that others are multiplied while memory is waited for.

/// Quantised weights and inputs.
template <tensor_type T>
struct quantised_product {
  using inputs = quantised_rows;
  static constexpr packed::format format = packed::format_of(T);
  static constexpr unsigned scales = format.block_scales();
  /// Blocks whose weights a warp asks for before it multiplies any: memory is slow, and few warps fit beside each
  /// other. Below: a type has a zero point, which is taken off where a sum starts, or a minimum, which is added for the
  /// inputs' sum.
  static constexpr unsigned blocks_in_flight = 2;
  static constexpr bool starts = zero_point<T> != 0, sums = format.minimum, extras = starts || sums;

  /// The inputs from `first` on.
  [[nodiscard]] static __host__ __device__ inputs from(const inputs& x, unsigned first) { return x.from(first, 0); }

  struct weights {
    unsigned a[4];
    row_scales<2> scale[scales];

    weights() = default;
    __device__ weights(const std::byte* panel, unsigned block, std::uint32_t) {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      const std::byte* const unit = panel + block / format.unit_blocks * format.unit_bytes();
      const unsigned in_unit = block % format.unit_blocks;
      const std::byte* const at = unit + format.header_bytes + in_unit * format.block_bytes();
      const auto first = quad_rows<T, 2>(at, t, 2 * g), second = quad_rows<T, 2>(at, t + 4, 2 * g);
      for (unsigned i = 0; i < 2; ++i) {
        a[i] = first.row[i];
        a[2 + i] = second.row[i];
      }
      for (unsigned s = 0; s < scales; ++s)
        scale[s] = unit_scales<T, 2>(unit, 2 * g, in_unit * scales + s);
    }
  };

  /// Operands of a lane: numbers of one input, and scales and what belongs to them of two.
  struct operands {
    unsigned b[2];
    float scale[2];
    unsigned extra[scales][2];

    operands() = default;
    /// Reads the operands of a tile of `count` inputs; those of the tile's further inputs are zero.
    __device__ operands(const inputs& x, unsigned count, unsigned block, std::uint32_t) {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      const auto* const q = reinterpret_cast<const unsigned*>(x.q + g * x.padded + block * block_columns);
      b[0] = g < count ? q[t] : 0;
      b[1] = g < count ? q[t + 4] : 0;
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned input = 2 * t + i;
        const bool there = input < count;
        const std::size_t at = input * (x.padded / activation_block) + block;
        scale[i] = there ? x.scale[at] : 0.0F;
        for (unsigned s = 0; s < scales; ++s)
          extra[s][i] = extras && there ? extra_of(x, at * scales + s) : 0;
      }
    }
  };

  static __device__ unsigned extra_of(const inputs& x, std::size_t at) {
    if constexpr (sums)
      return __float_as_uint((scales == 2 ? x.sum16 : x.sum32)[at]);
    return static_cast<unsigned>(zero_point<T> * (scales == 2 ? x.minus16 : x.minus32)[at]);
  }

  static __device__ void multiply(float (&acc)[4], const weights& w, const operands& x) {
    for (unsigned s = 0; s < scales; ++s) {
      // Integers below 2^22 in magnitude, in the mantissa of a float: a subtraction converts them.
      constexpr int offset = 0x4B400000;
      constexpr float offset_number = 12582912.0F;
      int dot[4];
      for (unsigned i = 0; i < 4; ++i)
        dot[i] = offset + (starts ? static_cast<int>(x.extra[s][i % 2]) : 0);
      if constexpr (scales == 1)
        multiply_bytes(dot, w.a, x.b);
      else
        multiply_bytes(dot, {w.a[2 * s], w.a[2 * s + 1]}, x.b[s]);
      for (unsigned i = 0; i < 4; ++i) {
        const float number = __uint_as_float(static_cast<unsigned>(dot[i])) - offset_number;
        acc[i] = fmaf(w.scale[s].scale[i / 2], number * x.scale[i % 2], acc[i]);
        if constexpr (sums)
          acc[i] = fmaf(w.scale[s].minimum[i / 2], __uint_as_float(x.extra[s][i % 2]), acc[i]);
      }
    }
  }

  static constexpr unsigned stage_blocks = 4;
  static constexpr unsigned pieces = stage_blocks * block_columns / sizeof(uint4); // of an input
  static constexpr unsigned numbers = many_inputs_of_block * stage_blocks;         // scales

  struct alignas(16) stage {
    std::int8_t q[many_inputs_of_block][stage_blocks * block_columns + 16]; // so that no two banks are the same
    float scale[stage_blocks][many_inputs_of_block];
    unsigned extra[extras ? stage_blocks * scales : 1][extras ? many_inputs_of_block : 1];

    /// Reads the operands of the tile that begins with input `first`, for block `block` of the stage.
    [[nodiscard]] __device__ operands read(unsigned first, unsigned block) const {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      const auto* const at = reinterpret_cast<const unsigned*>(q[first + g] + block * block_columns);
      operands out;
      out.b[0] = at[t];
      out.b[1] = at[t + 4];
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned input = first + 2 * t + i;
        out.scale[i] = scale[block][input];
        for (unsigned s = 0; s < scales; ++s)
          out.extra[s][i] = extras ? extra[block * scales + s][input] : 0;
      }
      return out;
    }
  };

  struct fetched {
    uint4 q[for_each_thread(many_inputs_of_block * pieces)];
    float scale[for_each_thread(numbers)];
    unsigned extra[extras ? for_each_thread(numbers * scales) : 1];

    /// Fetches the blocks from `block` on, of `count` inputs.
    __device__ fetched(const inputs& x, unsigned count, unsigned block, std::uint32_t) {
      const auto blocks = static_cast<unsigned>(x.padded / block_columns);
      each_of_thread<many_inputs_of_block * pieces>([&](unsigned j, unsigned i) {
        const unsigned input = i / pieces, piece = i % pieces;
        q[j] = {};
        if (input < count && block + piece / 2 < blocks)
          q[j] =
              *reinterpret_cast<const uint4*>(x.q + input * x.padded + block * block_columns + piece * sizeof(uint4));
      });
      each_of_thread<numbers>([&](unsigned j, unsigned i) {
        const unsigned input = i / stage_blocks, at = block + i % stage_blocks;
        scale[j] = input < count && at < blocks ? x.scale[input * blocks + at] : 0.0F;
      });
      if constexpr (extras)
        each_of_thread<numbers * scales>([&](unsigned j, unsigned i) {
          const unsigned input = i / (stage_blocks * scales), at = block * scales + i % (stage_blocks * scales);
          extra[j] = input < count && at < blocks * scales ? extra_of(x, input * blocks * scales + at) : 0;
        });
    }
    __device__ void put(stage& to) const {
      each_of_thread<many_inputs_of_block * pieces>([&](unsigned j, unsigned i) {
        *reinterpret_cast<uint4*>(to.q[i / pieces] + i % pieces * sizeof(uint4)) = q[j];
      });
      each_of_thread<numbers>([&](unsigned j, unsigned i) { to.scale[i % stage_blocks][i / stage_blocks] = scale[j]; });
      if constexpr (extras)
        each_of_thread<numbers * scales>([&](unsigned j, unsigned i) {
          to.extra[i % (stage_blocks * scales)][i / (stage_blocks * scales)] = extra[j];
        });
    }
  };
};

/// F16 and BF16 weights; inputs are rounded to the same type. A lane's numbers of sixteen columns are those of columns
/// t, t + 4, t + 8 and t + 12, so that loads of neighbouring lanes lie side by side.
template <tensor_type T>
struct half_product {
  static constexpr bool bf16 = T == tensor_type::bf16;
  static constexpr unsigned halves = block_columns / 16;
  static constexpr unsigned blocks_in_flight = 1; // a kibibyte

  struct inputs {
    const float* x;
    std::size_t stride;
  };
  [[nodiscard]] static __host__ __device__ inputs from(const inputs& x, unsigned first) {
    return {x.x + first * x.stride, x.stride};
  }

  struct weights {
    unsigned a[halves][4];

    weights() = default;
    __device__ weights(const std::byte* panel, unsigned block, std::uint32_t columns) {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      for (unsigned h = 0; h < halves; ++h) {
        unsigned word[4]; // two rows of a column each
        for (unsigned j = 0; j < 4; ++j) {
          const unsigned k = block * block_columns + h * 16 + j * 4 + t;
          word[j] = k < columns ? *reinterpret_cast<const unsigned*>(panel + (std::size_t{k} * rows_of_panel + 2 * g) *
                                                                                 sizeof(std::uint16_t))
                                : 0;
        }
        for (unsigned j = 0; j < 2; ++j) {
          a[h][2 * j] = low_halves(word[2 * j], word[2 * j + 1]);
          a[h][2 * j + 1] = high_halves(word[2 * j], word[2 * j + 1]);
        }
      }
    }
  };

  struct operands {
    unsigned b[halves][2];

    operands() = default;
    __device__ operands(const inputs& x, unsigned count, unsigned block, std::uint32_t columns) {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      for (unsigned h = 0; h < halves; ++h)
        load(x.x + g * x.stride, g < count, block * block_columns + h * 16 + t, columns, b[h]);
    }
  };

  static __device__ void load(const float* x, bool there, unsigned first, std::uint32_t columns, unsigned (&b)[2]) {
    float number[4];
    for (unsigned j = 0; j < 4; ++j)
      number[j] = there && first + 4 * j < columns ? x[first + 4 * j] : 0.0F;
    b[0] = pack_halves<bf16>(number[0], number[1]);
    b[1] = pack_halves<bf16>(number[2], number[3]);
  }

  static __device__ void multiply(float (&acc)[4], const weights& w, const operands& x) {
    for (unsigned h = 0; h < halves; ++h)
      multiply_halves<bf16>(acc, w.a[h], x.b[h]);
  }

  static constexpr unsigned stage_blocks = 2;
  static constexpr unsigned stage_halves = stage_blocks * halves;
  static constexpr unsigned pairs = stage_halves * 4; // of words, of an input

  struct stage {
    uint2 words[many_inputs_of_block][pairs + 4]; // so that eight inputs' do not lie in the same banks

    [[nodiscard]] __device__ operands read(unsigned first, unsigned block) const {
      const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
      operands out;
      for (unsigned h = 0; h < halves; ++h) {
        const uint2 w = words[first + g][(block * halves + h) * 4 + t];
        out.b[h][0] = w.x;
        out.b[h][1] = w.y;
      }
      return out;
    }
  };

  struct fetched {
    unsigned b[for_each_thread(many_inputs_of_block * pairs)][2];

    __device__ fetched(const inputs& x, unsigned count, unsigned block, std::uint32_t columns) {
      each_of_thread<many_inputs_of_block * pairs>([&](unsigned j, unsigned i) {
        const unsigned input = i / pairs, h = i % pairs / 4, t = i % 4;
        load(x.x + input * x.stride, input < count, block * block_columns + h * 16 + t, columns, b[j]);
      });
    }
    __device__ void put(stage& to) const {
      each_of_thread<many_inputs_of_block * pairs>([&](unsigned j, unsigned i) {
        to.words[i / pairs][i % pairs] = {b[j][0], b[j][1]};
      });
    }
  };
};

// -- kernels ---------------------------------------------------------------------------------------------------------

/// Calls `f(input, row, sum)` for each of a lane's sums; inputs count from the tile's first.
template <class F>
__device__ void each_sum(const float (&sums)[4], F f) {
  const unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i)
    f(2 * t + i % 2, 2 * g + i / 2, sums[i]);
}

constexpr unsigned few_warps = warps_of_block(16), few_threads = few_warps * warp_size;
/// Tiles of inputs that meet a weight once it is read, where there are few.
constexpr unsigned max_few_tiles = 4;

/// Fetches a warp's first weights while the kernels before end, since memory would be idle.
__device__ inline void fetch_weights_ahead(const panel_of_product& panel, unsigned blocks) {
  constexpr unsigned step = 64; // bytes
  const std::size_t bytes = panel.target.panel_bytes,
                    from = chunk_begin(threadIdx.x / warp_size, blocks) * bytes / blocks;
  const std::size_t at = from + threadIdx.x % warp_size * step;
  if (at < bytes)
    prefetch_l2(panel.weights() + at);
}

/// Multiplies one panel with `Tiles` tiles of inputs.
template <class Product, unsigned Tiles>
__global__ void __launch_bounds__(few_threads)
    gemv(products p, typename Product::inputs x, unsigned count, unsigned int8_rows) {
  __shared__ float sums[chunks][Tiles * tile_inputs][rows_of_panel];
  const panel_of_product panel(p, blockIdx.x);
  const unsigned blocks = p.blocks();
  fetch_weights_ahead(panel, blocks);
  griddepcontrol_wait();
  for (unsigned chunk = threadIdx.x / warp_size; chunk < chunks; chunk += few_warps) {
    float acc[Tiles][4] = {};
    // More registers than 64 a thread would halve the warps.
    constexpr unsigned together = Tiles < max_few_tiles ? Product::blocks_in_flight : 1;
    const unsigned end = chunk_begin(chunk + 1, blocks);
    for (unsigned b = chunk_begin(chunk, blocks); b < end; b += together) {
      typename Product::weights w[together];
      TROPILLA_UNROLL
      for (unsigned i = 0; i < together; ++i)
        w[i] = {panel.weights(), min(b + i, end - 1), p.columns};
      TROPILLA_UNROLL
      for (unsigned i = 0; i < together; ++i)
        TROPILLA_UNROLL
      for (unsigned tile = 0; tile < Tiles; ++tile)
        if (const unsigned first = tile * tile_inputs; b + i < end && first < count)
          Product::multiply(acc[tile], w[i], {Product::from(x, first), count - first, b + i, p.columns});
    }
    for (unsigned tile = 0; tile < Tiles; ++tile)
      each_sum(acc[tile],
               [&](unsigned input, unsigned row, float sum) { sums[chunk][tile * tile_inputs + input][row] = sum; });
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count / int8_rows * rows_of_panel; i += few_threads) {
    const unsigned input = i / rows_of_panel, row = i % rows_of_panel;
    float sum = 0;
    for (unsigned n = 0; n < int8_rows; ++n) {
      float of_row = 0;
      for (unsigned c = 0; c < chunks; ++c)
        of_row += sums[c][input * int8_rows + n][row];
      sum = n == 0 ? of_row : sum + of_row;
    }
    panel.store(input, row, sum);
  }
}

/// Multiplies many inputs. Warps share them in shared memory: one stage is multiplied while the next one comes.
template <class Product>
__global__ void __launch_bounds__(many_threads)
    gemm(products p, typename Product::inputs x, unsigned count, unsigned int8_rows) {
  griddepcontrol_wait();
  __shared__ typename Product::stage stages[2];
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned first_input = blockIdx.x * many_inputs_of_block;
  const unsigned of_warp = warp % many_input_warps * many_tiles * tile_inputs;
  const unsigned first_panel = (blockIdx.y * many_row_warps + warp / many_input_warps) * many_panels;
  const unsigned here = count - first_input; // or more than the block takes
  const typename Product::inputs from = Product::from(x, first_input);
  const std::byte* rows[many_panels];
  for (unsigned g = 0; g < many_panels; ++g) // behind the last one: that one again, which is not stored
    rows[g] = panel_of_product(p, min(first_panel + g, p.panels - 1)).weights();

  const unsigned blocks = p.blocks();
  float acc[many_panels][many_tiles][4] = {}, total[many_panels][many_tiles][4] = {};
  const auto end_chunk = [&] {
    TROPILLA_UNROLL
    for (unsigned g = 0; g < many_panels; ++g)
      TROPILLA_UNROLL
    for (unsigned tile = 0; tile < many_tiles; ++tile)
      for (unsigned i = 0; i < 4; ++i) {
        total[g][tile][i] += acc[g][tile][i];
        acc[g][tile][i] = 0;
      }
  };
  typename Product::fetched(from, here, 0, p.columns).put(stages[0]);
  __syncthreads();
  unsigned chunk = 0;
  for (unsigned first = 0, turn = 0; first < blocks; first += Product::stage_blocks, turn ^= 1) {
    // Behind the last block there are only zeros to fetch.
    const typename Product::fetched next(from, here, first + Product::stage_blocks, p.columns);
    TROPILLA_UNROLL
    for (unsigned b = 0; b < Product::stage_blocks; ++b) {
      if (first + b >= blocks)
        break;
      for (; chunk_begin(chunk + 1, blocks) <= first + b; ++chunk)
        end_chunk();
      const typename Product::weights w[many_panels] = {{rows[0], first + b, p.columns},
                                                        {rows[1], first + b, p.columns}};
      TROPILLA_UNROLL
      for (unsigned tile = 0; tile < many_tiles; ++tile) {
        const typename Product::operands in = stages[turn].read(of_warp + tile * tile_inputs, b);
        for (unsigned g = 0; g < many_panels; ++g)
          Product::multiply(acc[g][tile], w[g], in);
      }
    }
    next.put(stages[turn ^ 1]);
    __syncthreads();
  }
  end_chunk();
  TROPILLA_UNROLL
  for (unsigned g = 0; g < many_panels; ++g)
    if (first_panel + g < p.panels) {
      const panel_of_product panel(p, first_panel + g);
      TROPILLA_UNROLL
      for (unsigned tile = 0; tile < many_tiles; ++tile) {
        const unsigned lane = threadIdx.x % warp_size;
        const unsigned input = first_input + of_warp + tile * tile_inputs + lane % 4 * 2;
        for (unsigned row = 0; row < 2; ++row) { // the lane's; two inputs of each, or two int8 rows of one
          const float(&sums)[4] = total[g][tile];
          const unsigned in_panel = lane / 4 * 2 + row;
          if (int8_rows == 2 && input < count)
            panel.store(input / 2, in_panel, sums[2 * row] + sums[2 * row + 1]);
          else
            for (unsigned i = 0; i < 2; ++i)
              if (input + i < count)
                panel.store(input + i, in_panel, sums[2 * row + i]);
        }
      }
    }
}

/// Float32 weights, which models have for small matrices: a thread has a row and every sixteenth column.
constexpr unsigned full_slices = 16;
__global__ void __launch_bounds__(full_slices* rows_of_panel)
    multiply_full(products p, const float* x, std::size_t stride) {
  griddepcontrol_wait();
  __shared__ float sums[full_slices][rows_of_panel];
  const panel_of_product panel(p, blockIdx.x);
  const auto* const weights = reinterpret_cast<const float*>(panel.weights());
  const unsigned row = threadIdx.x % rows_of_panel, slice = threadIdx.x / rows_of_panel;
  const float* const in = x + blockIdx.y * stride;
  float acc = 0;
  for (unsigned k = slice; k < p.columns; k += full_slices)
    acc = fmaf(weights[std::size_t{k} * rows_of_panel + row], in[k], acc);
  sums[slice][row] = acc;
  __syncthreads();
  if (slice == 0) {
    float sum = 0;
    for (unsigned s = 0; s < full_slices; ++s)
      sum += sums[s][row];
    panel.store(blockIdx.y, row, sum);
  }
}

void multiply_full_rows(void* stream, const products& p, const activation_view& input, unsigned count) {
  constexpr unsigned max_blocks = 65535; // of a grid in this direction
  for (unsigned first = 0; first < count; first += max_blocks)
    launch(stream, dim3(p.panels, std::min(count - first, max_blocks)), full_slices * rows_of_panel, multiply_full,
           after(p, first), input.full + first * input.full_stride, input.full_stride);
}

/// `count` inputs, `int8_rows` of each row of the activation.
template <class Product>
void multiply(void* stream, const products& p, const typename Product::inputs& x, unsigned count, unsigned int8_rows) {
  if (count > cuda::max_few_inputs) {
    constexpr unsigned panels = many_row_warps * many_panels;
    const dim3 grid(divide_up(count, many_inputs_of_block), divide_up(p.panels, panels));
    launch(stream, grid, many_threads, gemm<Product>, p, x, count, int8_rows);
    return;
  }
  for (unsigned first = 0; first < count; first += max_few_tiles * tile_inputs) {
    const unsigned here = std::min(count - first, max_few_tiles * tile_inputs);
    const auto launch_gemv = [&]<unsigned Tiles>() {
      launch(stream, dim3(p.panels), few_threads, gemv<Product, Tiles>, after(p, first / int8_rows),
             Product::from(x, first), here, int8_rows);
    };
    if (here <= tile_inputs)
      launch_gemv.template operator()<1>();
    else if (here <= 2 * tile_inputs)
      launch_gemv.template operator()<2>();
    else
      launch_gemv.template operator()<max_few_tiles>();
  }
}

/// Targets of one type.
void multiply_type(void* stream, const activation_view& input, std::size_t rows, tensor_type type, const products& p,
                   std::byte* rounded) {
  const auto count = static_cast<unsigned>(rows);
  if (type == tensor_type::f32)
    multiply_full_rows(stream, p, input, count);
  else if (rounded != nullptr && cuda::wgmma_fits(type, rows, p.columns))
    gemm_wgmma(stream, input, count, type, p, rounded);
  else if (type == tensor_type::f16)
    multiply<half_product<tensor_type::f16>>(stream, p, {input.full, input.full_stride}, count, 1);
  else if (type == tensor_type::bf16)
    multiply<half_product<tensor_type::bf16>>(stream, p, {input.full, input.full_stride}, count, 1);
  else
    packed::with_quantised(type, [&]<tensor_type T>() {
      const auto int8_rows = static_cast<unsigned>(input.int8_rows);
      multiply<quantised_product<T>>(stream, p, input.quantised, count * int8_rows, int8_rows);
    });
}

} // namespace

void launch(void* stream, const call::linear& c) {
  for (std::size_t i = 0; c.rows != 0 && i < c.count;) {
    const tensor_type type = c.targets[i].weight.layout.type;
    products p{};
    for (; i < c.count && c.targets[i].weight.layout.type == type; ++i) {
      const linear_target& t = c.targets[i];
      const packed_layout& w = t.weight.layout;
      p.columns = static_cast<std::uint32_t>(w.columns);
      p.first_panel[p.count] = p.panels;
      p.of[p.count++] = {t.weight.data, w.panel_bytes, t.out, t.stride, static_cast<std::uint32_t>(w.rows),
                         t.accumulate};
      p.panels += static_cast<unsigned>(w.panels());
    }
    if (p.panels != 0)
      multiply_type(stream, c.input, c.rows, type, p, c.rounded);
  }
}

} // namespace tropilla::TROPILLA_CUDA_NS
