// The row kernels in plain C++.
#include "kernels/host/row_kernels_impl.hpp"
#include "kernels/host/simd16_scalar.hpp"

namespace tropilla::host::scalar {

const row_kernels& rows() noexcept {
  return row_kernels_of<simd16>::table;
}

} // namespace tropilla::host::scalar
