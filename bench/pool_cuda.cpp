// Calls the CUDA runtime. Without CUDA, gives the reason why nothing is measured.
#include "bench/pool_cuda.hpp"

#ifdef TROPILLA_HAS_CUDA

#include "tropilla/error.hpp"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <fmt/format.h>

namespace tropilla::bench {
namespace {

void check(cudaError_t result, const char* call) {
  if (result != cudaSuccess)
    throw error(errc::device_failed, fmt::format("{} failed: {}", call, cudaGetErrorString(result)));
}

/// Keeps CUDA's pool from giving memory back to the driver while it is measured: the pool at its best.
void keep_all() {
  cudaMemPool_t pool = nullptr;
  std::uint64_t everything = ~std::uint64_t{0};
  check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &everything), "cudaMemPoolSetAttribute");
}

} // namespace

cuda_pool::cuda_pool() {
  int gpus = 0;
  if (const auto found = cudaGetDeviceCount(&gpus); found != cudaSuccess || gpus == 0) {
    not_measured_because_ = fmt::format("no GPU can be used here ({})", cudaGetErrorString(found));
    return;
  }
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_ = made;
  keep_all();
}

cuda_pool::~cuda_pool() {
  if (stream_ != nullptr)
    (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream_));
}

void* cuda_pool::allocate(std::size_t bytes) {
  void* block = nullptr;
  check(cudaMallocAsync(&block, bytes, static_cast<cudaStream_t>(stream_)), "cudaMallocAsync");
  return block;
}

void cuda_pool::free(void* block) {
  check(cudaFreeAsync(block, static_cast<cudaStream_t>(stream_)), "cudaFreeAsync");
}

} // namespace tropilla::bench

#else

namespace tropilla::bench {

cuda_pool::cuda_pool() : not_measured_because_("this program is built without CUDA") {}
cuda_pool::~cuda_pool() = default;

void* cuda_pool::allocate(std::size_t) {
  return nullptr;
}

void cuda_pool::free(void*) {}

} // namespace tropilla::bench

#endif
