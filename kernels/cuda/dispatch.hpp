/// Declares which source launches which kernel of `cuda_kernels.hpp`. For the sources of this folder only.
#pragma once

#include "kernels/cuda/cuda_compat.hpp"
#include "kernels/cuda/cuda_kernels.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

#ifdef TROPILLA_EMULATE_CUDA
namespace call = cuda::call;
using cuda::attention_item;
using cuda::attention_metadata;
using cuda::row_place;
#endif

// elementwise.cu
void launch(void* stream, const call::embed& c);
void launch(void* stream, const call::rms_norm& c);
void launch(void* stream, const call::store& c);
void launch(void* stream, const call::store_swiglu& c);
void launch(void* stream, const call::gather_rows& c);

// top_k.cu
void launch(void* stream, const call::top_k& c);

// linear.cu
void launch(void* stream, const call::linear& c);

// linear_wgmma.cu
void launch(void* stream, const call::gated_linear& c);

// attention.cu
void launch(void* stream, const call::rope_and_append& c);
void launch(void* stream, const call::attention& c);

/// SiLU of the gate, times `up`.
__device__ inline float swiglu(float gate, float up) {
  return gate / (1.0F + expf(-gate)) * up;
}

} // namespace tropilla::TROPILLA_CUDA_NS
