/// Whether this program has code for a GPU. For the sources of this folder only.
#pragma once

namespace tropilla::cuda {

/// `cudaSuccess`, or what keeps the calling thread's GPU from running our kernels (a `cudaError_t`).
[[nodiscard]] int find_kernels() noexcept;

} // namespace tropilla::cuda
