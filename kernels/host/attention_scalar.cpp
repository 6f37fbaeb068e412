// The attention kernels in plain C++.
#include "kernels/host/attention_impl.hpp"
#include "kernels/host/simd16_scalar.hpp"

namespace tropilla::host::scalar {

const attention_kernels& attention() noexcept {
  return attention_kernels_of<simd16>::table;
}

} // namespace tropilla::host::scalar
