// Products of many inputs with F16 and BF16 weights, on Hopper's tensor cores.
//
// A block of threads has 128 rows and 192 inputs, of which each of its two warpgroups has half of the rows. Weights and
// inputs of 64 columns are a stage in shared memory; while one is multiplied, three more come. The packed format has
// the eight weights that a tile wants side by side; inputs are rounded into tiles first.
//
// A lane has 96 sums of a chunk and as many of all chunks before, which is what decides the 192 inputs. Limits, on an
// H100: a stage is 40 KiB for 768 cycles of tensor cores, 53 bytes a cycle, and the second-level cache gives about 30.
#include "kernels/cuda/products.hpp"
#include "kernels/cuda/warpgroup_words.hpp"

#include "kernels/cuda/matrix_words.hpp"

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

// Emulated, one warpgroup shows what two do.
constexpr unsigned warpgroups = emulated ? 1 : 2;
constexpr unsigned threads_of_block = warpgroups * warpgroup_size;
constexpr unsigned groups_of_block = warpgroups * warpgroup_rows / rows_of_group;
constexpr unsigned inputs_of_block = warpgroup_columns;
constexpr unsigned stage_columns = tile_columns * tile_side;

struct alignas(128) stage {
  std::byte weights[groups_of_block * 2][tile_row_bytes]; // of eight rows each
  std::byte inputs[inputs_of_block / tile_side][tile_row_bytes];
};

/// Stages that are being multiplied or may be; as many more are on their way.
constexpr unsigned stages_in_use = 2, stages_ahead = 3;
struct ring {
  stage of[stages_in_use + stages_ahead];

  [[nodiscard]] __device__ stage& at(unsigned number) { return of[number % (stages_in_use + stages_ahead)]; }
};

constexpr unsigned piece_bytes = sizeof(uint4); // of a copy

/// Where a thread's share of the stages comes from.
class stage_source {
public:
  /// The warp copies the row group whose rows it multiplies.
  __device__ stage_source(const products& p, const std::byte* x, unsigned count)
      : weights_(
            group_of_product(p, min(blockIdx.y * groups_of_block + threadIdx.x / warp_size, p.groups - 1)).weights()),
        columns_(p.columns), first_tile_(blockIdx.x * (inputs_of_block / tile_side)),
        tiles_((count + tile_side - 1) / tile_side), x_(x) {}

  __device__ void start(unsigned number, stage& to) const {
    const unsigned warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
    constexpr unsigned column_bytes = rows_of_group * 2;
    TROPILLA_UNROLL
    for (unsigned i = 0; i < 2 * stage_columns / warp_size; ++i) {
      // Eight lanes have as many columns of half of the rows: they write to different banks.
      const unsigned column = (i * 2 + lane / 16) * tile_side + lane % 8, half = lane / 8 % 2;
      start_copy(to.weights[warp * 2 + half] + column * piece_bytes,
                 weights_ + std::size_t{number * stage_columns + column} * column_bytes + half * piece_bytes, true);
    }
    constexpr unsigned pieces_of_tiles = tile_row_bytes / piece_bytes; // of eight inputs
    TROPILLA_UNROLL
    for (unsigned i = threadIdx.x; i < inputs_of_block / tile_side * pieces_of_tiles; i += threads_of_block) {
      const unsigned tile = first_tile_ + i / pieces_of_tiles, piece = i % pieces_of_tiles;
      const bool there = tile < tiles_;
      start_copy(to.inputs[i / pieces_of_tiles] + piece * piece_bytes,
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

template <bool Bf16>
__global__ void __launch_bounds__(threads_of_block, 1) multiply_stages(products p, const std::byte* x, unsigned count) {
  wait_for_kernels_before();
  TROPILLA_DYNAMIC_SHARED(ring, stages);
  const unsigned warp = threadIdx.x / warp_size, warpgroup = threadIdx.x / warpgroup_size;
  const stage_source source(p, x, count);
  const unsigned last = p.columns / stage_columns, of_chunk = last / chunks;
  const auto begin = [&](unsigned number) {
    if (number < last)
      source.start(number, stages.at(number));
    end_copies(); // or an empty group, so that as many are pending
  };

  warpgroup_sums acc = {}, total = {};
  for (unsigned s = 0; s < stages_ahead; ++s)
    begin(s);
  for (unsigned first = 0; first < last; first += of_chunk) {
    for (unsigned s = first; s < first + of_chunk; ++s) {
      wait_for_copies<stages_ahead - 1>();
      // Everybody's part of the stage has come, and nobody reads any more the one that the next copies replace.
      __syncthreads();
      begin_products();
      const stage& now = stages.at(s);
      TROPILLA_UNROLL
      for (unsigned k = 0; k < stage_columns / warpgroup_depth; ++k) {
        const unsigned at = k * (warpgroup_depth / tile_side) * tile_bytes;
        start_product<Bf16>(acc, now.weights[warpgroup * (warpgroup_rows / tile_side)] + at, now.inputs[0] + at,
                            s + k != first);
      }
      end_products();
      begin(s + stages_ahead);
      wait_for_products<1>();
    }
    wait_for_sums(acc);
    TROPILLA_UNROLL
    for (unsigned n = 0; n < warpgroup_columns / tile_side; ++n)
      for (unsigned i = 0; i < 4; ++i)
        total[n][i] += acc[n][i];
  }

  const unsigned number = blockIdx.y * groups_of_block + warp, lane = threadIdx.x % warp_size;
  if (number >= p.groups)
    return;
  const group_of_product group(p, number);
  TROPILLA_UNROLL
  for (unsigned n = 0; n < warpgroup_columns / tile_side; ++n)
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned input = blockIdx.x * inputs_of_block + n * tile_side + lane % 4 * 2 + i % 2;
      if (input < count)
        group.store(input, lane / 4 + i / 2 * 8, total[n][i]);
    }
}

/// A thread has eight columns of an input. Inputs that fill up the last eight are zeros.
constexpr unsigned round_threads = 256;
template <bool Bf16>
__global__ void __launch_bounds__(round_threads)
    round_into_tiles(const float* x, std::size_t stride, unsigned count, unsigned columns, std::byte* out) {
  wait_for_kernels_before();
  const unsigned pieces = columns / tile_side; // of an input
  const std::size_t i = std::size_t{blockIdx.x} * round_threads + threadIdx.x;
  const std::size_t tile = i / (tile_side * pieces);
  const unsigned piece = static_cast<unsigned>(i / tile_side % pieces);
  const std::size_t input = tile * tile_side + i % tile_side;
  if (tile >= (count + tile_side - 1) / tile_side)
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

template <bool Bf16>
void multiply(void* stream, const activation_parts& input, unsigned count, const products& p, std::byte* rounded) {
  const std::size_t pieces = std::size_t{(count + tile_side - 1) / tile_side} * tile_side * (p.columns / tile_side);
  launch(stream, dim3(static_cast<unsigned>((pieces + round_threads - 1) / round_threads)), round_threads,
         round_into_tiles<Bf16>, input.full, input.full_stride, count, p.columns, rounded);
  launch_with_shared(
      stream, dim3((count + inputs_of_block - 1) / inputs_of_block, (p.groups + groups_of_block - 1) / groups_of_block),
      threads_of_block, sizeof(ring), multiply_stages<Bf16>, p, rounded, count);
}

} // namespace

void multiply_by_warpgroups(void* stream, const activation_parts& input, unsigned count, tensor_type type,
                            const products& p, std::byte* rounded) {
  if (type == tensor_type::bf16)
    multiply<true>(stream, input, count, p, rounded);
  else
    multiply<false>(stream, input, count, p, rounded);
}

} // namespace tropilla::TROPILLA_CUDA_NS
