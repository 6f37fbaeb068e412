// The attention kernels for AVX2.
#include "kernels/host/attention_impl.hpp"
#include "kernels/host/simd16_avx2.hpp"

namespace tropilla::host::avx2 {

const attention_kernels& attention() noexcept {
  return attention_kernels_of<simd16>::table;
}

} // namespace tropilla::host::avx2
