// CUDA kernels for products of many inputs with F16 and BF16 weights, on Hopper's tensor cores.
//
// A block of threads has 128 rows and 192 inputs, of which each of its two warpgroups has half of the rows. Weights and
// inputs of 64 columns are a stage in shared memory; while one is multiplied, three more come. The packed format has
// the eight weights that a tile wants side by side; inputs are rounded into tiles first.
//
// A lane has 96 sums of a chunk and as many of all chunks before, which is what decides the 192 inputs. Limits, on an
// H100: a stage is 40 KiB for 768 cycles of tensor cores, 53 bytes a cycle, and the second-level cache gives about 30.
#include "kernels/cuda/mma.hpp"
#include "kernels/cuda/products.hpp"
#include "kernels/cuda/wgmma.hpp"
#include "memory/rounding.hpp"

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr unsigned warpgroups = 2, threads_of_block = warpgroups * warpgroup_size;
constexpr unsigned panels_of_warpgroup = warpgroup_rows / rows_of_panel;
constexpr unsigned panels_of_block = warpgroups * panels_of_warpgroup;
constexpr unsigned inputs_of_block = warpgroup_columns;
constexpr unsigned stage_columns = tile_columns * tile_side;
static_assert(cuda::wgmma_fits(tensor_type::bf16, cuda::max_few_inputs + 1, stage_columns* chunks),
              "chunks are of whole stages");

struct alignas(128) stage {
  std::byte weights[panels_of_block * 2][tile_row_bytes]; // of eight rows each
  std::byte inputs[inputs_of_block / tile_side][tile_row_bytes];
};

/// Stages that are being multiplied or may be; as many more are on their way.
constexpr unsigned stages_in_use = 2, stages_ahead = 3;
struct ring {
  stage of[stages_in_use + stages_ahead];

  [[nodiscard]] __device__ stage& at(unsigned number) { return of[number % (stages_in_use + stages_ahead)]; }
};

constexpr unsigned piece_bytes = sizeof(uint4); // of a copy

/// The source of a thread's share of the stages.
class stage_source {
public:
  /// The warp copies the panel whose rows it multiplies, `weights`; of `count` inputs `x` the block has its own.
  __device__ stage_source(const std::byte* weights, unsigned columns, const std::byte* x, unsigned count)
      : weights_(weights), columns_(columns), first_tile_(blockIdx.x * (inputs_of_block / tile_side)),
        tiles_(divide_up(count, tile_side)), x_(x) {}

  [[nodiscard]] __device__ unsigned stages() const { return columns_ / stage_columns; }

  __device__ void start(unsigned number, stage& to) const {
    const unsigned warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
    constexpr unsigned column_bytes = rows_of_panel * 2;
    TROPILLA_UNROLL
    for (unsigned i = 0; i < 2 * stage_columns / warp_size; ++i) {
      // Eight lanes have as many columns of half of the rows: they write to different banks.
      const unsigned column = (i * 2 + lane / 16) * tile_side + lane % 8, half = lane / 8 % 2;
      cp_async(to.weights[warp * 2 + half] + column * piece_bytes,
               weights_ + std::size_t{number * stage_columns + column} * column_bytes + half * piece_bytes, true);
    }
    constexpr unsigned pieces_of_tiles = tile_row_bytes / piece_bytes; // of eight inputs
    TROPILLA_UNROLL
    for (unsigned i = threadIdx.x; i < inputs_of_block / tile_side * pieces_of_tiles; i += threads_of_block) {
      const unsigned tile = first_tile_ + i / pieces_of_tiles, piece = i % pieces_of_tiles;
      const bool there = tile < tiles_;
      cp_async(to.inputs[i / pieces_of_tiles] + piece * piece_bytes,
               x_ + std::size_t{there ? tile : 0} * columns_ * (tile_side * 2) + number * tile_row_bytes +
                   piece * piece_bytes,
               there);
    }
  }

private:
  const std::byte* weights_;
  unsigned columns_;
  unsigned first_tile_, tiles_; ///< of eight inputs
  const std::byte* x_;
};

/// Sums of the warp's panel and the block's inputs.
template <bool Bf16>
__device__ __forceinline__ void sum_stages(ring& stages, const stage_source& source, warpgroup_sums& total) {
  const unsigned warpgroup = threadIdx.x / warpgroup_size;
  const unsigned last = source.stages(), of_chunk = last / chunks;
  const auto begin = [&](unsigned number) {
    if (number < last)
      source.start(number, stages.at(number));
    end_copies(); // or an empty group, so that as many are pending
  };
  warpgroup_sums acc = {};
  for (unsigned s = 0; s < stages_ahead; ++s)
    begin(s);
  for (unsigned first = 0; first < last; first += of_chunk) {
    for (unsigned s = first; s < first + of_chunk; ++s) {
      wait_for_copies<stages_ahead - 1>();
      // All threads' parts of the stage have come, and no thread reads any more the one that the next copies replace.
      __syncthreads();
      begin_products();
      const stage& now = stages.at(s);
      TROPILLA_UNROLL
      for (unsigned k = 0; k < stage_columns / warpgroup_depth; ++k) {
        const unsigned at = k * (warpgroup_depth / tile_side) * tile_bytes;
        wgmma_async<Bf16>(acc, now.weights[warpgroup * (warpgroup_rows / tile_side)] + at, now.inputs[0] + at,
                          s + k != first);
      }
      end_products();
      begin(s + stages_ahead);
      wait_for_products<1>();
    }
    wgmma_wait(acc);
    TROPILLA_UNROLL
    for (unsigned n = 0; n < warpgroup_columns / tile_side; ++n)
      for (unsigned i = 0; i < 4; ++i)
        total[n][i] += acc[n][i];
  }
}

/// Calls `f(input, row of the panel, n, i)` for the lane's sums `[n][i]` that are of one of `count` inputs.
template <class F>
__device__ __forceinline__ void each_of_lane(unsigned count, F f) {
  const unsigned lane = threadIdx.x % warp_size;
  TROPILLA_UNROLL
  for (unsigned n = 0; n < warpgroup_columns / tile_side; ++n)
    TROPILLA_UNROLL
  for (unsigned i = 0; i < 4; ++i)
    if (const unsigned input = blockIdx.x * inputs_of_block + n * tile_side + lane % 4 * 2 + i % 2; input < count)
      f(input, lane / 4 + i / 2 * 8, n, i);
}

template <bool Bf16>
__global__ void __launch_bounds__(threads_of_block, 1) multiply_stages(products p, const std::byte* x, unsigned count) {
  griddepcontrol_wait();
  TROPILLA_DYNAMIC_SHARED(ring, stages);
  const unsigned number = blockIdx.y * panels_of_block + threadIdx.x / warp_size;
  const panel_of_product panel(p, min(number, p.panels - 1));
  warpgroup_sums total = {};
  sum_stages<Bf16>(stages, stage_source(panel.weights(), p.columns, x, count), total);
  if (number < p.panels)
    each_of_lane(count,
                 [&](unsigned input, unsigned row, unsigned n, unsigned i) { panel.store(input, row, total[n][i]); });
}

struct gated_product {
  const std::byte* gate;
  const std::byte* up;
  std::size_t panel_bytes;
  float* out;
  std::size_t stride;
  unsigned rows, panels, columns;
};

/// Multiplies gates on one warpgroup, and what they gate on the other.
template <bool Bf16>
__global__ void __launch_bounds__(threads_of_block, 1)
    multiply_gated(gated_product p, const std::byte* x, unsigned count) {
  griddepcontrol_wait();
  TROPILLA_DYNAMIC_SHARED(ring, stages);
  const bool gates = threadIdx.x < warpgroup_size;
  const unsigned panel = blockIdx.y * panels_of_warpgroup + threadIdx.x % warpgroup_size / warp_size;
  const std::byte* const weights = (gates ? p.gate : p.up) + min(panel, p.panels - 1) * p.panel_bytes;
  warpgroup_sums total = {};
  sum_stages<Bf16>(stages, stage_source(weights, p.columns, x, count), total);

  using passed_sums = float[warpgroup_columns / tile_side][4][warpgroup_size];
  static_assert(sizeof(passed_sums) <= sizeof(ring));
  auto& passed = reinterpret_cast<passed_sums&>(stages);
  const unsigned thread = threadIdx.x % warpgroup_size;
  __syncthreads(); // no thread reads the stages any more
  if (!gates)
    each_of_lane(count, [&](unsigned, unsigned, unsigned n, unsigned i) { passed[n][i][thread] = total[n][i]; });
  __syncthreads();
  if (gates && panel < p.panels)
    each_of_lane(count, [&](unsigned input, unsigned row, unsigned n, unsigned i) {
      row += panel * rows_of_panel;
      if (row < p.rows)
        p.out[input * p.stride + row] = swiglu(total[n][i], passed[n][i][thread]);
    });
}

/// Threads of the kernel that rounds: each has eight columns of an input. Inputs that fill up the last eight are zeros.
constexpr unsigned round_threads = 256;
template <bool Bf16>
__global__ void __launch_bounds__(round_threads)
    round_into_tiles(const float* x, std::size_t stride, unsigned count, unsigned columns, std::byte* out) {
  griddepcontrol_wait();
  const unsigned pieces = columns / tile_side; // of an input
  const std::size_t i = std::size_t{blockIdx.x} * round_threads + threadIdx.x;
  const std::size_t tile = i / (tile_side * pieces);
  const unsigned piece = static_cast<unsigned>(i / tile_side % pieces);
  const std::size_t input = tile * tile_side + i % tile_side;
  if (tile >= divide_up(count, tile_side))
    return;
  uint4 packed{};
  if (input < count) {
    const auto* const from = reinterpret_cast<const uint4*>(x + input * stride + piece * tile_side);
    const uint4 low = from[0], high = from[1];
    const auto both = [](unsigned a, unsigned b) { return pack_halves<Bf16>(__uint_as_float(a), __uint_as_float(b)); };
    packed = {both(low.x, low.y), both(low.z, low.w), both(high.x, high.y), both(high.z, high.w)};
  }
  *reinterpret_cast<uint4*>(out + i * piece_bytes) = packed;
}

/// Rounds the inputs into tiles, and calls `multiply.template operator()<Bf16>()`.
template <class F>
void with_rounded(void* stream, const activation_view& input, unsigned count, unsigned columns, tensor_type type,
                  std::byte* rounded, F multiply) {
  const std::size_t tiles = divide_up(count, tile_side), pieces = tiles * columns;
  const dim3 grid(static_cast<unsigned>(divide_up(pieces, round_threads)));
  const auto as = [&]<bool Bf16>() {
    launch(stream, grid, round_threads, round_into_tiles<Bf16>, input.full, input.full_stride, count, columns, rounded);
    multiply.template operator()<Bf16>();
  };
  if (type == tensor_type::bf16)
    as.template operator()<true>();
  else
    as.template operator()<false>();
}

/// Blocks for all inputs, and for all panels, of which one takes `together`.
dim3 blocks_for(unsigned count, unsigned panels, unsigned together) {
  return {divide_up(count, inputs_of_block), divide_up(panels, together)};
}

} // namespace

void gemm_wgmma(void* stream, const activation_view& input, unsigned count, tensor_type type, const products& p,
                std::byte* rounded) {
  with_rounded(stream, input, count, p.columns, type, rounded, [&]<bool Bf16>() {
    launch_with_shared(stream, blocks_for(count, p.panels, panels_of_block), threads_of_block, sizeof(ring),
                       multiply_stages<Bf16>, p, rounded, count);
  });
}

void launch(void* stream, const call::gated_linear& c) {
  const packed_layout& w = c.gate.layout;
  const auto count = static_cast<unsigned>(c.rows);
  const gated_product p{c.gate.data,
                        c.up.data,
                        w.panel_bytes,
                        c.out.full,
                        c.out.full_stride,
                        static_cast<unsigned>(w.rows),
                        static_cast<unsigned>(w.panels()),
                        static_cast<unsigned>(w.columns)};
  with_rounded(stream, c.input, count, p.columns, w.type, c.rounded, [&]<bool Bf16>() {
    launch_with_shared(stream, blocks_for(count, p.panels, panels_of_warpgroup), threads_of_block, sizeof(ring),
                       multiply_gated<Bf16>, p, c.rounded, count);
  });
}

} // namespace tropilla::TROPILLA_CUDA_NS
