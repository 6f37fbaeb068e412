/// Measures CUDA's own pool for comparison: `cudaMallocAsync` and `cudaFreeAsync` on a stream of the first GPU.
#pragma once

#include <cstddef>
#include <string>

namespace tropilla::bench {

class cuda_pool {
public:
  cuda_pool();
  ~cuda_pool();
  cuda_pool(const cuda_pool&) = delete;
  cuda_pool& operator=(const cuda_pool&) = delete;

  /// A sentence; empty where it can be measured.
  [[nodiscard]] const std::string& not_measured_because() const noexcept { return not_measured_because_; }

  /// Allocates. The host waits for the call, not for the stream. Throws `error` (device_failed). @pre it can be
  /// measured
  [[nodiscard]] void* allocate(std::size_t bytes);
  void free(void* block);

private:
  std::string not_measured_because_;
  void* stream_ = nullptr; ///< a `cudaStream_t`
};

} // namespace tropilla::bench
