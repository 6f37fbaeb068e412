// The attention kernels for AVX-512.
#include "kernels/host/attention_impl.hpp"
#include "kernels/host/simd16_avx512.hpp"

namespace tropilla::host::TROPILLA_AVX512_NS {

const attention_kernels& attention() noexcept {
  return attention_kernels_of<simd16>::table;
}

} // namespace tropilla::host::TROPILLA_AVX512_NS
