// Asks the CUDA runtime about GPUs. It is linked statically and looks for the driver when it is first called.
#include "kernels/cuda/gpus.hpp"

#include <utility>

#ifdef TROPILLA_HAS_CUDA

#include "kernels/cuda/probe.hpp"

#include <cuda_runtime_api.h>

#include <fmt/format.h>

namespace tropilla::cuda {
namespace {

/// "12.4" of 12040.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string none_because(cudaError_t why) {
  int driver = 0;
  (void)cudaDriverGetVersion(&driver);
  switch (why) {
  case cudaErrorInsufficientDriver:
    return driver == 0 ? "there is no NVIDIA driver on this machine"
                       : fmt::format("the NVIDIA driver is for CUDA {} and tropilla needs {}; update the driver",
                                     version_text(driver), version_text(CUDART_VERSION));
  case cudaErrorNoDevice:
    return "the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES may hide them)";
  default:
    return fmt::format("the NVIDIA driver can't be used: {} ({})", cudaGetErrorString(why), cudaGetErrorName(why));
  }
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, which, index) == cudaSuccess ? value : 0;
}

} // namespace

gpu describe_gpu(int index, int count) {
  gpu g;
  g.index = index;
  cudaDeviceProp properties{};
  if (const auto why = cudaGetDeviceProperties(&properties, index); why != cudaSuccess) {
    g.problem = fmt::format("the driver does not describe it: {}", cudaGetErrorString(why));
    return g;
  }
  g.name = properties.name;
  g.architecture = fmt::format("sm_{}{}", properties.major, properties.minor);
  g.memory_bytes = properties.totalGlobalMem;
  g.processors = static_cast<std::size_t>(properties.multiProcessorCount);
  // kHz and bits; memory transfers twice a cycle.
  g.bandwidth =
      2.0 * 1e3 * attribute(cudaDevAttrMemoryClockRate, index) * attribute(cudaDevAttrGlobalMemoryBusWidth, index) / 8;
  for (int other = 0; other < count; ++other) {
    int can = 0;
    if (other != index && cudaDeviceCanAccessPeer(&can, index, other) == cudaSuccess && can != 0)
      g.peers.push_back(other);
  }
  std::size_t total = 0;
  auto why = cudaSetDevice(index);
  if (why == cudaSuccess)
    why = cudaMemGetInfo(&g.free_bytes, &total);
  if (why == cudaSuccess)
    why = static_cast<cudaError_t>(find_kernels());
  if (why != cudaSuccess)
    g.problem = why == cudaErrorNoKernelImageForDevice || why == cudaErrorInvalidDeviceFunction
                    ? "tropilla is built without kernels for it (TROPILLA_CUDA_ARCHITECTURES)"
                    : fmt::format("it can't be used now: {}", cudaGetErrorString(why));
  (void)cudaGetLastError();
  return g;
}

gpu_count count_gpus() {
  int count = 0;
  const auto why = cudaGetDeviceCount(&count);
  (void)cudaGetLastError(); // it is reported here
  if (why != cudaSuccess || count == 0)
    return {0, none_because(why == cudaSuccess ? cudaErrorNoDevice : why)};
  return {count, ""};
}

} // namespace tropilla::cuda

#else

namespace tropilla::cuda {

gpu_count count_gpus() {
  return {
      0,
      "this tropilla is built without CUDA (CMake found no nvcc or no GPU; scripts/build.sh --cuda needs only nvcc)"};
}

gpu describe_gpu(int, int) {
  return {}; // not reached: there are none
}

} // namespace tropilla::cuda

#endif

namespace tropilla::cuda {

gpu_list list_gpus() {
  auto count = count_gpus();
  gpu_list out{{}, std::move(count.none_because)};
  for (int i = 0; i < count.gpus; ++i)
    out.gpus.push_back(describe_gpu(i, count.gpus));
  return out;
}

} // namespace tropilla::cuda
