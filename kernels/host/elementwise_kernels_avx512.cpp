// The row kernels for AVX-512.
#include "kernels/host/elementwise_kernels_impl.hpp"
#include "kernels/host/simd16_avx512.hpp"

namespace tropilla::host::TROPILLA_AVX512_NS {

const elementwise_kernels& rows() noexcept {
  return elementwise_kernels_of<simd16>::table;
}

} // namespace tropilla::host::TROPILLA_AVX512_NS
