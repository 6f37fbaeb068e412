/// Implements the operations of a Llama layer for a GPU: each call is written down, and `run` has the GPU do them.
#pragma once

#include "kernels/cuda/call_graphs.hpp"
#include "kernels/ops.hpp"

#include <span>
#include <vector>

namespace tropilla::cuda {

/// The place of a device's scratch.
struct device_scratch {
  std::byte* base = nullptr;
  std::size_t bytes = 0;
};

/// The calls and tables of a job. Cleared and used again, so that jobs of the same size allocate nothing.
struct written_job {
  std::vector<gpu_call> calls;
  std::vector<std::byte> tables; ///< as they lie at the scratch's end
};

/// Writes one job down and runs it. Lives for one job. What a job names in the processor's memory (ids, rows, pages) is
/// copied to the scratch when it is first named; a job names the same sequences, and shapes of attention with the same
/// heads, in all of its calls.
///
/// The scratch has a workspace and tables. The workspace is used in turn by attention (results of splits), by a product
/// (rounded inputs) and by a gated product (rounded inputs, or gates and what they gate). The tables are page starts,
/// places of rows, items of attention, ids or chosen rows.
class cuda_ops final : public ops {
public:
  cuda_ops(gpu_api& gpu, void* stream, const device_scratch& scratch, written_job& job)
      : gpu_(gpu), stream_(stream), scratch_(scratch), job_(job) {
    job.calls.clear();
    job.tables.clear();
  }

  /// Enqueues the job. Throws `error` (device_failed).
  void run(call_graphs& graphs);

  /// Scratch bytes of steps of so many rows; see `device::scratch_bytes`.
  [[nodiscard]] static std::size_t scratch_bytes(const gpu_api& gpu, std::size_t rows, std::size_t width,
                                                 std::size_t pages) noexcept;

  [[nodiscard]] std::size_t worker() const noexcept override { return 0; }
  [[nodiscard]] std::size_t workers() const noexcept override { return 1; }
  void embed(const packed_matrix& table, std::span<const std::int32_t> ids, float* x) override;
  void rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows, const activation& out) override;
  void quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) override;
  void linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) override;
  void rope_and_append(float* q, const float* k, const float* v, std::size_t stride, const attention_shape& shape,
                       const rope_table& rope, const kv_layer& layer,
                       std::span<const sequence_rows> sequences) override;
  void attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                 std::span<const sequence_rows> sequences, float* out) override;
  void gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate, const packed_matrix& up,
                    const activation& out) override;
  void gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) override;
  void copy(const std::byte* from, std::byte* to, std::size_t bytes) override;
  void top_k(float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k, candidate* out) override;

private:
  template <class T>
  [[nodiscard]] const T* upload(std::span<T> values);
  void place(const attention_shape& shape, std::span<const sequence_rows> sequences);
  void add_linear(const activation_view& input, std::size_t rows, std::span<const linear_target> targets,
                  std::byte* rounded);

  gpu_api& gpu_;
  void* stream_;
  device_scratch scratch_;
  written_job& job_;
  attention_metadata step_;
};

} // namespace tropilla::cuda
