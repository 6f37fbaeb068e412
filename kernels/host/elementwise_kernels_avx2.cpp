// The row kernels for AVX2.
#include "kernels/host/elementwise_kernels_impl.hpp"
#include "kernels/host/simd16_avx2.hpp"

namespace tropilla::host::avx2 {

const elementwise_kernels& rows() noexcept {
  return elementwise_kernels_of<simd16>::table;
}

} // namespace tropilla::host::avx2
