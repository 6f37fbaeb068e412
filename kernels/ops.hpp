/// The operations that a device can compute: those of a Llama layer, over buffers that the caller has leased.
///
/// A compute job runs on every worker of the device at once (host: each thread of the team; CUDA: one worker).
/// Each worker calls the same operations with the same arguments in the same order. An operation divides its work
/// between the workers and ends with a barrier, so its outputs are visible to all workers when it returns.
/// Rows are independent: a row's bits do not depend on the other rows, the number of rows, or the number of workers.
#pragma once

#include "kernels/kv_cache.hpp"
#include "kernels/packed.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace tropilla {

/// The precision that the consumers of an activation want: quantised weights read `quantised` or `residual_int8`, F16,
/// BF16 and F32 weights read `full`. A device that computes precisely keeps float32 whatever the kind.
enum class activation_kind : std::uint8_t {
  quantised,
  full,
  both,
  residual_int8, ///< quantised, and what that rounded away quantised again: for the output head
};

/// The input of matrix products, in the device's own format (host: int8 blocks with scales and/or float32).
/// `data` has `device::activation_bytes(kind, rows, width)` bytes, 64-byte aligned.
struct activation {
  std::byte* data = nullptr;
  activation_kind kind = activation_kind::quantised;
  std::size_t rows = 0;  ///< capacity the buffer was sized for
  std::size_t width = 0; ///< values per row
};

struct activation_view;

/// One product of `linear`: `out[r, 0 .. weight.rows) (+)= input[r] * weight^T`.
struct linear_target {
  packed_matrix weight;
  float* out = nullptr;    ///< [rows, stride]
  std::size_t stride = 0;  ///< floats between rows of `out`
  bool accumulate = false; ///< adds to `out` (the residual stream)

  friend bool operator==(const linear_target&, const linear_target&) = default;
};

/// Rotary embedding: the angle of pair `i` at position `p` is `p * frequency[i]`, computed in float64 from
/// `theta^(-2i/dims) / factor[i]`. GGUF's llama layout rotates neighbouring pairs (2i, 2i+1).
struct rope_table {
  const float* cos = nullptr; ///< [positions, dims/2], first `positions` positions
  const float* sin = nullptr;
  std::size_t positions = 0;
  std::size_t dims = 0; ///< rotated values per head; the rest of a head passes through

  friend bool operator==(const rope_table&, const rope_table&) = default;
};

/// The shape of an attention layer.
struct attention_shape {
  std::size_t heads = 0;
  std::size_t kv_heads = 0;   ///< divides heads
  std::size_t key_size = 0;   ///< values of a query or key head
  std::size_t value_size = 0; ///< values of a value head
  float scale = 0;            ///< usually 1/sqrt(key_size)

  friend bool operator==(const attention_shape&, const attention_shape&) = default;
};

/// A token and its logit.
struct token_logit {
  float logit = 0;
  std::int32_t token = -1;
};
/// The largest k of `ops::top_k`, and the largest vocabulary.
inline constexpr std::size_t max_top_k = 64;
inline constexpr std::size_t max_top_k_vocabulary = std::size_t{1} << 18;

class ops {
public:
  virtual ~ops() = default;

  [[nodiscard]] virtual std::size_t worker() const noexcept = 0;
  [[nodiscard]] virtual std::size_t workers() const noexcept = 0;

  /// Returns when all workers have called it; what they wrote before is visible after. A job that writes something by
  /// itself calls it before an operation reads that.
  virtual void barrier() = 0;

  /// `x[r] = table[ids[r] - first]`, or zeros where the table has no such row; `x` is `[ids.size(), table.columns]`.
  virtual void embed(const packed_matrix& table, std::int32_t first, std::span<const std::int32_t> ids, float* x) = 0;

  /// `out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight`, stored as an activation. `x` is `[rows, out.width]`.
  virtual void rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows,
                        const activation& out) = 0;

  /// Stores `x` `[rows, out.width]` (rows `stride` floats apart) as an activation.
  virtual void quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) = 0;

  /// All targets read the same input rows `[0, rows)`.
  virtual void linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) = 0;

  /// Rotates queries in place (`q` is `[rows, stride]`, heads * key_size used) and appends rotated keys and values
  /// to the cache. `k` and `v` are `[rows, stride]` each.
  virtual void rope_and_append(float* q, const float* k, const float* v, std::size_t stride,
                               const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                               std::span<const sequence_rows> sequences) = 0;

  /// Causal attention of each row over its sequence's cache (positions 0 to the row's own).
  /// `q` is `[rows, stride]`, `out` is `[rows, heads * value_size]`.
  virtual void attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                         std::span<const sequence_rows> sequences, float* out) = 0;

  /// `out[r] = silu(input[r] * gate^T) * (input[r] * up^T)`, stored as an activation.
  /// @pre gate and up have `out.width` rows.
  virtual void gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate,
                            const packed_matrix& up, const activation& out) = 0;

  /// Where an activation's arrays are, in the format of kernels/activation_format.hpp.
  [[nodiscard]] virtual activation_view view(const activation& a) const noexcept = 0;

  /// Copies chosen rows: `out[i] = x[rows[i]]`, `width` floats each.
  virtual void gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) = 0;

  /// Copies `bytes`, a multiple of 64. Copies of the same size may follow each other's results without more ado: a
  /// worker has the same part of each.
  virtual void copy(const std::byte* from, std::byte* to, std::size_t bytes) = 0;

  /// The `k` greatest logits of each row, by ascending token: `out` is `[rows, k]`, `logits` `[rows, vocabulary]`,
  /// which hold nothing afterwards. Of equal logits the lower token goes first; NaN comes last. Only for devices whose
  /// memory the processor can't read: otherwise the processor finds them in place.
  /// @pre k <= max_top_k, 2 k <= vocabulary <= max_top_k_vocabulary
  virtual void top_k(float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k, token_logit* out) = 0;
};

} // namespace tropilla
