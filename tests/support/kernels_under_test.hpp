/// Which build of the CUDA kernels `cuda_test.cpp` tests: it is part of two programs, of which one has no GPU.
#pragma once

#include "kernels/cuda/cuda_kernels.hpp"

namespace tropilla::testing {

struct kernels_under_test {
  cuda::kernel_table kernels; ///< whose functions take any memory of this program, and return when all is computed
  bool has_wgmma = false;
  double precision = 0; ///< of sums of floats, relative: tensor cores drop bits that the processor rounds
  /// See `cuda_emulated::let_copies_come_early`.
  void (*let_copies_come_early)(bool early) = [](bool) {};
};

[[nodiscard]] const kernels_under_test& under_test();

} // namespace tropilla::testing
