// The row kernels for AVX2.
#include "kernels/host/row_kernels_impl.hpp"
#include "kernels/host/simd16_avx2.hpp"

namespace tropilla::host::avx2 {

const row_kernels& rows() noexcept {
  return row_kernels_of<simd16>::table;
}

} // namespace tropilla::host::avx2
