/// Represents the GPU work of a job as data, so that a job that comes again is recognised and launched as one graph.
#pragma once

#include "kernels/cuda/gpu_api.hpp"

#include <cstddef>
#include <span>
#include <variant>
#include <vector>

namespace tropilla::cuda {

/// A copy within the GPU's memory.
struct copy_call {
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
  friend bool operator==(const copy_call&, const copy_call&) = default;
};

/// One piece of a job.
using gpu_call = std::variant<kernel_call, copy_call>;

/// Runs the calls of a device's jobs. Calls that come a second time, with the same pointers and numbers, become a
/// graph, which is launched from then on: a step of few rows is hundreds of kernels, each shorter than it takes to
/// launch it. Used by the device's compute thread.
class call_graphs {
public:
  explicit call_graphs(gpu_api& gpu) : gpu_(gpu) {}
  ~call_graphs();
  call_graphs(const call_graphs&) = delete;
  call_graphs& operator=(const call_graphs&) = delete;

  /// Enqueues the calls. Where CUDA makes no graph of them, one by one, then and later. Throws `error` (device_failed).
  void run(std::span<const gpu_call> calls, void* stream);

private:
  struct known {
    std::vector<gpu_call> calls;
    void* graph = nullptr; ///< null: they came once
  };

  [[nodiscard]] void* capture(std::span<const gpu_call> calls, void* stream) noexcept;

  gpu_api& gpu_;
  std::vector<known> known_; ///< the latest ones first
  bool works_ = true;
};

} // namespace tropilla::cuda
