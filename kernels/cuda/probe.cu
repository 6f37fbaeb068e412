// Checks whether this program has code for a GPU.
#include "kernels/cuda/probe.hpp"

#include <cuda_runtime.h>

namespace tropilla::cuda {
namespace {

__global__ void nothing() {}

} // namespace

int find_kernels() noexcept {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, nothing);
}

} // namespace tropilla::cuda
