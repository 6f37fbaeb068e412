// The row kernels in plain C++.
#include "kernels/host/elementwise_kernels_impl.hpp"
#include "kernels/host/simd16_scalar.hpp"

namespace tropilla::host::scalar {

const elementwise_kernels& rows() noexcept {
  return elementwise_kernels_of<simd16>::table;
}

} // namespace tropilla::host::scalar
