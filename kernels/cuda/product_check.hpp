/// Checks whether a GPU's warpgroups add as its warps do. For the sources of this folder only.
#pragma once

#include "kernels/cuda/cuda_kernels.hpp"

namespace tropilla::cuda {

/// Multiplies a small matrix by few inputs at a time and by all, with and without warpgroups, on the calling thread's
/// GPU, and compares the bits: how a tensor core rounds the sum of sixteen products is the hardware's to choose, and a
/// reply must not depend on how many are computed together. Takes and gives back 8 MiB of the GPU's memory. False where
/// CUDA fails, too.
[[nodiscard]] bool wgmma_agrees() noexcept;

} // namespace tropilla::cuda
