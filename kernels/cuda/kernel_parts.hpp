/// Declares which source defines which function of the table in `cuda_kernels.hpp`. For the sources of this folder
/// only.
#pragma once

#include "kernels/cuda/cuda_compat.hpp"
#include "kernels/cuda/cuda_kernels.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

#ifdef TROPILLA_EMULATE_CUDA
using cuda::attention_item;
using cuda::attention_metadata;
using cuda::row_place;
#endif

// elementwise.cu
void embed(void* stream, const packed_matrix& table, const std::int32_t* ids, std::size_t rows, float* x);
void rms_norm(void* stream, const float* x, const float* weight, float epsilon, std::size_t rows, std::size_t width,
              const activation_view& out);
void store(void* stream, const float* x, std::size_t stride, std::size_t rows, std::size_t width,
           const activation_view& out);
void store_swiglu(void* stream, const float* gate, const float* up, std::size_t stride, std::size_t rows,
                  std::size_t width, const activation_view& out);
void gather_rows(void* stream, const float* x, std::size_t width, const std::uint32_t* rows, std::size_t count,
                 float* out);

// top_k.cu
void top_k(void* stream, float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k, candidate* out);

// linear.cu
void linear(void* stream, const activation_view& input, std::size_t rows, std::span<const linear_target> targets,
            std::byte* rounded);

// linear_wgmma.cu
void gated_linear(void* stream, const activation_view& input, std::size_t rows, const packed_matrix& gate,
                  const packed_matrix& up, const activation_view& out, std::byte* rounded);

/// SiLU of the gate, times `up`.
__device__ inline float swiglu(float gate, float up) {
  return gate / (1.0F + expf(-gate)) * up;
}

// attention.cu
void rope_and_append(void* stream, float* q, const float* k, const float* v, std::size_t stride,
                     const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                     const attention_metadata& step);
void attention(void* stream, const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
               const attention_metadata& step, float* out, std::byte* scratch);

} // namespace tropilla::TROPILLA_CUDA_NS
