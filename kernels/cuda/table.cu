// Defines the kernel table of one build of the kernels.
#include "kernels/cuda/kernel_parts.hpp"

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

const cuda::kernel_table& kernels() noexcept {
  static constexpr cuda::kernel_table table = {.embed = embed,
                                               .rms_norm = rms_norm,
                                               .store = store,
                                               .store_swiglu = store_swiglu,
                                               .linear = linear,
                                               .gated_linear = gated_linear,
                                               .rope_and_append = rope_and_append,
                                               .attention = attention,
                                               .gather_rows = gather_rows,
                                               .top_k = top_k};
  return table;
}

} // namespace tropilla::TROPILLA_CUDA_NS
