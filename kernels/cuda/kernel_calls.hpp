/// Represents the GPU work of a job as data, so that a job that comes again is recognised and launched as one graph.
#pragma once

#include "kernels/cuda/gpu_api.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace tropilla::cuda {

// The arguments of the functions of `kernel_table` of the same names, and of a copy.
namespace call {

struct embed {
  packed_matrix table;
  const std::int32_t* ids;
  std::size_t rows;
  float* x;
  friend bool operator==(const embed&, const embed&) = default;
};
struct rms_norm {
  const float* x;
  const float* weight;
  float epsilon;
  std::size_t rows, width;
  activation_view out;
  friend bool operator==(const rms_norm&, const rms_norm&) = default;
};
struct store {
  const float* x;
  std::size_t stride, rows, width;
  activation_view out;
  friend bool operator==(const store&, const store&) = default;
};
struct store_swiglu {
  const float* gate;
  const float* up;
  std::size_t stride, rows, width;
  activation_view out;
  friend bool operator==(const store_swiglu&, const store_swiglu&) = default;
};
struct linear {
  static constexpr std::size_t most = 3;
  activation_view input;
  std::size_t rows;
  std::array<linear_target, most> targets;
  std::size_t count;
  std::byte* rounded;
  friend bool operator==(const linear&, const linear&) = default;
};
struct gated_linear {
  activation_view input;
  std::size_t rows;
  packed_matrix gate, up;
  activation_view out;
  std::byte* rounded;
  friend bool operator==(const gated_linear&, const gated_linear&) = default;
};
struct rope_and_append {
  float* q;
  const float* k;
  const float* v;
  std::size_t stride;
  attention_shape shape;
  rope_table rope;
  kv_layer layer;
  attention_metadata step;
  friend bool operator==(const rope_and_append&, const rope_and_append&) = default;
};
struct attention {
  const float* q;
  std::size_t stride;
  attention_shape shape;
  kv_layer layer;
  attention_metadata step;
  float* out;
  std::byte* scratch;
  friend bool operator==(const attention&, const attention&) = default;
};
struct gather_rows {
  const float* x;
  std::size_t width;
  const std::uint32_t* rows;
  std::size_t count;
  float* out;
  friend bool operator==(const gather_rows&, const gather_rows&) = default;
};
struct top_k {
  float* logits;
  std::size_t rows, vocabulary, k;
  candidate* out;
  friend bool operator==(const top_k&, const top_k&) = default;
};
struct copy {
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
  friend bool operator==(const copy&, const copy&) = default;
};

} // namespace call

using kernel_call =
    std::variant<call::embed, call::rms_norm, call::store, call::store_swiglu, call::linear, call::gated_linear,
                 call::rope_and_append, call::attention, call::gather_rows, call::top_k, call::copy>;

/// Enqueues the calls in their order. Throws `error` (device_failed).
void issue(std::span<const kernel_call> calls, gpu_api& gpu, void* stream);

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
  void run(std::span<const kernel_call> calls, void* stream);

private:
  struct known {
    std::vector<kernel_call> calls;
    void* graph = nullptr; ///< null: they came once
  };

  [[nodiscard]] void* capture(std::span<const kernel_call> calls, void* stream) noexcept;

  gpu_api& gpu_;
  std::vector<known> known_; ///< the latest ones first
  bool works_ = true;
};

} // namespace tropilla::cuda
