/// Which build of the CUDA kernels `cuda_test.cpp` tests: it is part of two programs, of which one has no GPU.
#pragma once

#include "kernels/cuda/cuda_kernels.hpp"

namespace tropilla::testing {

struct kernels_under_test {
  /// Computes a kernel, on any memory of this program, and returns when all is done.
  void (*compute)(const cuda::kernel_call& c) = nullptr;
  bool has_wgmma = false;
  double precision = 0; ///< of sums of floats, relative: tensor cores drop bits that the processor rounds
  /// See `cuda_emulated::let_copies_come_early`.
  void (*let_copies_come_early)(bool early) = [](bool) {};
};

[[nodiscard]] const kernels_under_test& under_test();

} // namespace tropilla::testing
