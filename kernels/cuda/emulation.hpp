/// Emulates the parts of CUDA that our kernels use on the processor: for tests only.
///
/// A block's threads are contexts that take turns on the calling thread, so a kernel may share memory, wait at barriers
/// and exchange values within a warp as on a GPU; blocks run one after another. A thread that reads what another one
/// would write without a barrier between them reads what the order of turns happens to give: races are not found.
#pragma once

#include "kernels/tensor_type.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h> // NOLINT(modernize-deprecated-headers): kernels call its functions without std::
#include <vector>

// NOLINTBEGIN(readability-identifier-naming,cppcoreguidelines-macro-usage,google-explicit-constructor): CUDA's names
// and conversions.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static // one block runs at a time, and all of it on one thread

namespace tropilla::cuda_emulated {

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct float2 {
  float x, y;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};

namespace emulation {

/// Runs `thread` once for each thread of each block.
void run(dim3 grid, unsigned threads, const std::function<void()>& thread);

/// Work that was enqueued on a stream, kept to be done later and again.
using kept_work = std::vector<std::function<void()>>;
/// Sends the calling thread's work for `stream` to `to` from now on; null: it is done at once.
void keep(void* stream, kept_work* to);
void run_or_keep(void* stream, std::function<void()> work);

/// Indices of the thread whose turn it is.
struct place {
  dim3 thread_index, block_index, block_dim, grid_dim;
};
[[nodiscard]] const place& current() noexcept;

void wait_for_block();

/// The words that a lane gives to its warp in one exchange: as many as the operands of a matrix product have.
using words = std::array<std::uint32_t, 6>;
/// Gives `mine`, and gets what all lanes gave, `[32]`. Stays until the lane's exchange after the next.
[[nodiscard]] const words* exchange(const words& mine);

/// Asynchronous work that the thread whose turn it is has started, in groups, and waits for later. It is done only when
/// it is waited for, so that a missing wait shows.
enum class started : std::uint8_t { copies, products };
void start(started kind, std::function<void()> work);
void end_group(started kind);
/// Waits for all groups but the last `pending`.
void wait_for_groups(started kind, unsigned pending);

} // namespace emulation

#define threadIdx (::tropilla::cuda_emulated::emulation::current().thread_index)
#define blockIdx (::tropilla::cuda_emulated::emulation::current().block_index)
#define blockDim (::tropilla::cuda_emulated::emulation::current().block_dim)
#define gridDim (::tropilla::cuda_emulated::emulation::current().grid_dim)

inline void __syncthreads() {
  emulation::wait_for_block();
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  static_assert(sizeof(T) <= sizeof(emulation::words));
  emulation::words mine{};
  std::memcpy(&mine, &value, sizeof value);
  std::memcpy(&value, emulation::exchange(mine) + static_cast<unsigned>(lane) % 32, sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ distance);
}

/// Bytes of `x` (0 to 3) and `y` (4 to 7), chosen by the low three bits of each nibble of `selector`; bit 3, which
/// spreads a byte's sign, is not emulated.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t both = x | (std::uint64_t{y} << 32);
  unsigned out = 0;
  for (unsigned i = 0; i < 4; ++i)
    out |= static_cast<unsigned>((both >> (8 * ((selector >> (4 * i)) & 7U))) & 255U) << (8 * i);
  return out;
}

inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
// NOLINTEND(readability-identifier-naming,cppcoreguidelines-macro-usage,google-explicit-constructor)
// NOLINTNEXTLINE(misc-unused-using-decls): the sources that include this use them.
using ::expf, ::fabsf, ::fmaf, ::fmaxf, ::fminf, ::rintf, ::sqrtf; // of math.h
inline unsigned min(unsigned a, unsigned b) {
  return a < b ? a : b;
}

} // namespace tropilla::cuda_emulated
