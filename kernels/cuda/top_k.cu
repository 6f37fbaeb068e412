// CUDA kernels that find the top-k tokens of rows of logits, so that only these travel to the processor.
//
// A vocabulary is cut into parts that a block of threads sorts (Batcher, "Sorting networks and their applications",
// 1968); the tokens that each block keeps are sorted again. The sorted keys have in the high half a logit, as an
// integer that is greater for a greater one; in the low half the token, inverted, so that of equal logits the lower
// token comes first.
#include "kernels/cuda/dispatch.hpp"
#include "memory/rounding.hpp"

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr unsigned max_keys = 4096; ///< of a block
constexpr unsigned sorting_threads = warps_of_block(32) * warp_size;

/// A logit as an integer in the same order; NaN is below everything, and both zeros are equal.
__device__ inline unsigned ordered(float logit) {
  if (!(logit == logit))
    return 0;
  const unsigned bits = __float_as_uint(logit + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float logit_of(unsigned ordered) {
  return __uint_as_float((ordered & 0x80000000U) != 0 ? ordered & 0x7FFFFFFFU : ~ordered);
}
__device__ inline std::uint64_t key_of(unsigned high, unsigned low) {
  return std::uint64_t{high} << 32 | low;
}

/// Sorts, the greatest first. `count` is a power of two; called by all threads of the block.
__device__ void sort(std::uint64_t* keys, unsigned count) {
  for (unsigned size = 2; size <= count; size *= 2)
    for (unsigned distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (unsigned i = threadIdx.x; i < count / 2; i += sorting_threads) {
        const unsigned a = i / distance * 2 * distance + i % distance, b = a + distance;
        const bool falls = (a & size) == 0;
        if ((keys[a] < keys[b]) == falls) {
          const std::uint64_t first = keys[a];
          keys[a] = keys[b];
          keys[b] = first;
        }
      }
    }
  __syncthreads();
}

__device__ inline unsigned power_of_two_from(unsigned count) {
  unsigned power = 1;
  while (power < count)
    power *= 2;
  return power;
}

/// Sorts part y of row x: its `k` greatest keys take the place of its first 2 k logits.
__global__ void __launch_bounds__(sorting_threads)
    keep_of_part(float* logits, unsigned vocabulary, unsigned part_size, unsigned k) {
  griddepcontrol_wait();
  __shared__ std::uint64_t keys[max_keys];
  const unsigned begin = blockIdx.y * part_size, count = min(part_size, vocabulary - begin);
  float* const part = logits + std::size_t{blockIdx.x} * vocabulary + begin;
  const unsigned sorted = power_of_two_from(count);
  for (unsigned i = threadIdx.x; i < sorted; i += sorting_threads)
    keys[i] = i < count ? key_of(ordered(part[i]), ~(begin + i)) : 0;
  sort(keys, sorted);
  for (unsigned i = threadIdx.x; i < k; i += sorting_threads) {
    part[2 * i] = __uint_as_float(static_cast<unsigned>(keys[i] >> 32));
    part[2 * i + 1] = __uint_as_float(static_cast<unsigned>(keys[i]));
  }
}

/// Sorts the keys that the parts of row x kept, and then the greatest of them by token.
__global__ void __launch_bounds__(sorting_threads)
    merge_kept(const float* logits, unsigned vocabulary, unsigned part_size, unsigned k, token_logit* out) {
  griddepcontrol_wait();
  __shared__ std::uint64_t keys[max_keys];
  const float* const row = logits + std::size_t{blockIdx.x} * vocabulary;
  const unsigned count = divide_up(vocabulary, part_size) * k;
  const unsigned sorted = power_of_two_from(count);
  for (unsigned i = threadIdx.x; i < sorted; i += sorting_threads) {
    const float* const kept = row + std::size_t{i / k} * part_size + i % k * 2;
    keys[i] = i < count ? key_of(__float_as_uint(kept[0]), __float_as_uint(kept[1])) : 0;
  }
  sort(keys, sorted);
  const unsigned by_token = power_of_two_from(k);
  for (unsigned i = threadIdx.x; i < by_token; i += sorting_threads)
    keys[i] = i < k ? key_of(static_cast<unsigned>(keys[i]), static_cast<unsigned>(keys[i] >> 32)) : 0;
  sort(keys, by_token);
  for (unsigned i = threadIdx.x; i < k; i += sorting_threads)
    out[std::size_t{blockIdx.x} * k + i] = {logit_of(static_cast<unsigned>(keys[i])),
                                            static_cast<std::int32_t>(~static_cast<unsigned>(keys[i] >> 32))};
}

} // namespace

void launch(void* stream, const call::top_k& c) {
  static_assert(max_top_k * divide_up(max_top_k_vocabulary, max_keys) <= max_keys);
  if (c.rows == 0)
    return;
  const auto count = static_cast<unsigned>(c.vocabulary), wanted = static_cast<unsigned>(c.k);
  const unsigned parts = divide_up(count, max_keys), part_size = divide_up(count, parts);
  const auto blocks = static_cast<unsigned>(c.rows);
  launch(stream, dim3(blocks, parts), sorting_threads, keep_of_part, c.logits, count, part_size, wanted);
  launch(stream, dim3(blocks), sorting_threads, merge_kept, static_cast<const float*>(c.logits), count, part_size,
         wanted, c.out);
}

} // namespace tropilla::TROPILLA_CUDA_NS
