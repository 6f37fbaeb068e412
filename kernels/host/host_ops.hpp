/// Implements the operations of a Llama layer for one worker of a host team.
#pragma once

#include "kernels/activation_format.hpp"
#include "kernels/host/attention_kernels.hpp"
#include "kernels/host/elementwise_kernels.hpp"
#include "kernels/host/linear.hpp"
#include "kernels/host/team.hpp"
#include "kernels/ops.hpp"

#include <cstddef>

namespace tropilla::host {

/// The kernels of one instruction set.
struct kernel_set {
  const elementwise_kernels* rows = nullptr;
  const attention_kernels* attention = nullptr;
  const linear_table* linear = nullptr;
};

/// @pre `isa` is "scalar", "avx2" or "avx512", and this machine has it.
[[nodiscard]] kernel_set kernels_of(std::string_view isa);

/// Largest key or value head that attention's scratch is made for.
inline constexpr std::size_t largest_head = 512;

/// Scratch of all workers. Each array is 64-byte aligned.
struct host_scratch {
  /// Per worker, for attention: room for 96 query vectors of heads of 64, 87 of 128, 9 of 512.
  static constexpr std::size_t attention_bytes = 384 << 10;
  /// Per worker, for partial results of attention over a divided context: 26 chunks of SmolLM2's nine heads of 64.
  static constexpr std::size_t shared_bytes = 64 << 10;

  std::byte* base = nullptr;
  std::size_t linear_bytes = 0; ///< of one worker, for `linear`

  /// Bytes for `workers` workers.
  [[nodiscard]] static std::size_t bytes(std::size_t workers) noexcept;
  /// Divides `bytes` (at least `bytes(workers)`) from `base` on.
  [[nodiscard]] static host_scratch divide(std::byte* base, std::size_t bytes, std::size_t workers) noexcept;

  [[nodiscard]] float* attention(std::size_t worker) const noexcept;
  [[nodiscard]] float* shared(std::size_t workers) const noexcept; ///< partial results of attention, of all workers
  [[nodiscard]] std::byte* linear(std::size_t worker, std::size_t workers) const noexcept;
};

/// The operations of one worker. Lives on its worker's stack for one job.
class host_ops final : public ops {
public:
  host_ops(worker_context& worker, const kernel_set& kernels, const host_scratch& scratch, bool precise)
      : worker_(worker), kernels_(kernels), scratch_(scratch), precise_(precise) {}

  [[nodiscard]] std::size_t worker() const noexcept override { return worker_.worker(); }
  [[nodiscard]] std::size_t workers() const noexcept override { return worker_.workers(); }
  void barrier() override { worker_.barrier(); }

  void embed(const packed_matrix& table, std::int32_t first, std::span<const std::int32_t> ids, float* x) override;
  [[nodiscard]] activation_view view(const activation& a) const noexcept override { return view_of(a, precise_); }
  void rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows, const activation& out) override;
  void quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) override;
  void linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) override;
  void rope_and_append(float* q, const float* k, const float* v, std::size_t stride, const attention_shape& shape,
                       const rope_table& rope, const kv_layer& layer,
                       std::span<const sequence_rows> sequences) override;
  /// @pre key_size and value_size are at most `largest_head`.
  void attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                 std::span<const sequence_rows> sequences, float* out) override;
  void gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate, const packed_matrix& up,
                    const activation& out) override;
  void gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) override;
  void copy(const std::byte* from, std::byte* to, std::size_t bytes) override;
  /// Throws `error` (internal): the processor finds the top-k in place.
  [[noreturn]] void top_k(float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k,
                          token_logit* out) override;

private:
  /// This worker's share of `count` pieces: contiguous, the same in every call.
  struct range {
    std::size_t first, last;
  };
  [[nodiscard]] range share_of(std::size_t count) const noexcept {
    return {count * worker() / workers(), count * (worker() + 1) / workers()};
  }
  /// Calls `f(row, first piece, last piece)` for this worker's share of `rows` rows of `width` values.
  template <class F>
  void for_pieces(std::size_t rows, std::size_t width, F&& f);

  worker_context& worker_;
  const kernel_set& kernels_;
  const host_scratch& scratch_;
  bool precise_;
};

} // namespace tropilla::host
