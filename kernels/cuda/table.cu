// The table of one build of the kernels.
#include "kernels/cuda/kernel_parts.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

const cuda::kernel_table& kernels() noexcept {
  static constexpr cuda::kernel_table table = {.embed = embed,
                                               .rms_norm = rms_norm,
                                               .store = store,
                                               .store_swiglu = store_swiglu,
                                               .linear = linear,
                                               .rope_and_append = rope_and_append,
                                               .attention = attention,
                                               .gather_rows = gather_rows,
                                               .likeliest = likeliest};
  return table;
}

} // namespace tropilla::TROPILLA_CUDA_NS
