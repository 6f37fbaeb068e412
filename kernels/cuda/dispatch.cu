// Enqueues kernel calls: finds the `launch` of each by its type.
#include "kernels/cuda/dispatch.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

bool kernels_overlap() noexcept {
#ifdef TROPILLA_EMULATE_CUDA
  return false;
#else
  static const bool off = cuda::turned_off("TROPILLA_CUDA_OVERLAP");
  int device = 0, generation = 0;
  return !off && cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&generation, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         generation >= 9;
#endif
}

void enqueue(void* stream, const cuda::kernel_call& c) {
  std::visit([stream](const auto& of_kernel) { launch(stream, of_kernel); }, c);
}

} // namespace tropilla::TROPILLA_CUDA_NS
