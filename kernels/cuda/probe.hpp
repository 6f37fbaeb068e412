/// Checks whether this program has code for a GPU. For the sources of this folder only.
#pragma once

namespace tropilla::cuda {

/// `cudaSuccess`, or the error (a `cudaError_t`) that keeps the calling thread's GPU from running our kernels.
[[nodiscard]] int find_kernels() noexcept;

} // namespace tropilla::cuda
