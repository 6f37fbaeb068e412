/// Lets the kernels be written once: in CUDA, or in the same words in plain C++.
///
/// The `*.cu` sources of this folder are compiled twice: by nvcc in the namespace `cuda`, and by the host's compiler in
/// `cuda_emulated`, where the threads of a block take turns on one thread of the processor. So their indices, their
/// reductions and their barriers are tested on machines without a GPU. `TROPILLA_CUDA_NS` is the namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef TROPILLA_EMULATE_CUDA
#include "kernels/cuda/emulation.hpp"
#define TROPILLA_CUDA_NS cuda_emulated
#define TROPILLA_UNROLL
#define TROPILLA_DYNAMIC_SHARED(Type, name) static Type name
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define TROPILLA_CUDA_NS cuda
#define TROPILLA_UNROLL _Pragma("unroll")
// Declares a block's shared variable that is larger than CUDA lets a declared one be.
#define TROPILLA_DYNAMIC_SHARED(Type, name)                                                                            \
  extern __shared__ __align__(alignof(Type)) std::byte name##_bytes[];                                                 \
  Type& name = *reinterpret_cast<Type*>(name##_bytes)
#endif

namespace tropilla::TROPILLA_CUDA_NS {

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned all_lanes = 0xFFFFFFFFU;

#ifdef TROPILLA_EMULATE_CUDA
inline constexpr bool emulated = true;
#else
inline constexpr bool emulated = false;
#endif

/// Warps of a block, fewer when emulated: emulated threads cost as much as real work, and two warps show what many do.
constexpr unsigned warps_of_block(unsigned warps) {
  return emulated && warps > 2 ? 2 : warps;
}

/// Whether the calling thread's GPU begins a kernel while the last blocks of the one before compute: from Hopper on,
/// unless TROPILLA_CUDA_OVERLAP is "off" in the environment.
[[nodiscard]] bool kernels_overlap() noexcept;

/// Enqueues `kernel` on `stream` (a `cudaStream_t`); `shared_bytes` are those of TROPILLA_DYNAMIC_SHARED. Whether it
/// could be launched is `cudaGetLastError`'s to say.
///
/// Kernels overlap, so each one has to call `griddepcontrol_wait` in all of its threads that do anything, and may
/// do before only what needs nothing but its parameters and weights.
template <class... Parameters, class... Arguments>
void launch_with_shared(void* stream, dim3 grid, unsigned threads, [[maybe_unused]] std::size_t shared_bytes,
                        void (*kernel)(Parameters...), Arguments... arguments) {
#ifdef TROPILLA_EMULATE_CUDA
  emulation::run_or_keep(stream, [=] { emulation::run(grid, threads, [&] { kernel(arguments...); }); });
#else
  constexpr std::size_t max_undeclared = std::size_t{48} << 10;
  if (shared_bytes > max_undeclared) // Each GPU has to be told. What fails here fails the launch, too.
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &overlap;
  config.numAttrs = kernels_overlap() ? 1 : 0;
  (void)cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
#endif
}
template <class... Parameters, class... Arguments>
void launch(void* stream, dim3 grid, unsigned threads, void (*kernel)(Parameters...), Arguments... arguments) {
  launch_with_shared(stream, grid, threads, 0, kernel, arguments...);
}

/// Waits until all that was enqueued before has been computed and can be read. The next kernel's blocks may begin,
/// where there is room, once all blocks of this one have called it.
__device__ inline void griddepcontrol_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Prefetches the cache line at `at` into the second-level cache.
__device__ inline void prefetch_l2([[maybe_unused]] const std::byte* at) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

/// IEEE half to float32, exactly.
__device__ inline float to_float(std::uint16_t half) {
#ifdef TROPILLA_EMULATE_CUDA
  return half_to_float(half);
#else
  return __half2float(__ushort_as_half(half));
#endif
}

/// Float32 to IEEE half, to nearest even; what exceeds its range becomes its largest number.
__device__ inline std::uint16_t to_half(float x) {
  constexpr float largest = 65504.0F;
  const float in_range = fminf(fmaxf(x, -largest), largest);
#ifdef TROPILLA_EMULATE_CUDA
  return float_to_half(in_range);
#else
  return __half_as_ushort(__float2half_rn(in_range));
#endif
}

__device__ inline float bf16_to_float32(std::uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

/// Float32 to bfloat16, to nearest even. @pre finite.
__device__ inline std::uint16_t to_bf16(float x) {
  const unsigned bits = __float_as_uint(x);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// The sum, or the largest, over the lanes whose numbers differ in the bits of `Width - 1`; every lane gets it.
template <unsigned Width = warp_size, class T>
__device__ inline T warp_sum(T x) {
  for (unsigned distance = Width / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(all_lanes, x, static_cast<int>(distance));
  return x;
}
__device__ inline float warp_max(float x) {
  for (unsigned distance = warp_size / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(all_lanes, x, static_cast<int>(distance)));
  return x;
}

} // namespace tropilla::TROPILLA_CUDA_NS
