/// Divides a model's matrices between devices that compute every layer together.
///
/// A matrix is divided by its outputs, its rows: queries, keys and values by KV heads, gate and up by the values
/// between them and down, all others by what they add to the residual stream, the output head by the vocabulary. Each
/// device computes whole dot products, so a value has the same bits wherever it is computed; what the next product
/// reads is gathered from all of them.
#pragma once

#include "kernels/ops.hpp"
#include "src/model/llama_config.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace tropilla {

/// Rows [first, first + count) of a matrix, or values of a row.
struct share_range {
  std::size_t first = 0, count = 0;

  friend bool operator==(const share_range&, const share_range&) = default;
};

/// One rank's share, and those of the others: of each dimension rank `r` has [bounds[r], bounds[r + 1]), which begin at
/// multiples that activations and packed matrices are made of.
struct tensor_share {
  std::size_t rank = 0;
  std::vector<std::size_t> kv_heads;    ///< bounds: each with the query heads that read it
  std::vector<std::size_t> attn_values; ///< of the values that these heads put out
  std::vector<std::size_t> ffn;         ///< of the values that down reads
  std::vector<std::size_t> width;       ///< of the residual stream
  std::vector<std::size_t> vocabulary;  ///< of embedding and head

  /// One device has all.
  [[nodiscard]] static tensor_share whole(const llama_config& model);
  /// The share of rank `rank`, in proportion to `weights`, one for each rank. Throws `error` (invalid_argument) when
  /// that leaves a rank without one of these.
  [[nodiscard]] static tensor_share divide(const llama_config& model, std::span<const double> weights,
                                           std::size_t rank);

  [[nodiscard]] std::size_t ranks() const noexcept { return width.size() - 1; }
  [[nodiscard]] bool is_whole() const noexcept { return ranks() == 1; }
  /// This rank's range.
  [[nodiscard]] share_range of(const std::vector<std::size_t>& bounds) const noexcept {
    return {bounds[rank], bounds[rank + 1] - bounds[rank]};
  }

  friend bool operator==(const tensor_share&, const tensor_share&) = default;
};

/// The attention of a rank's heads.
[[nodiscard]] attention_shape attention_of(const llama_config& model, const tensor_share& share);

/// Rows [range.first, range.first + range.count) of a matrix in its file.
[[nodiscard]] weight_source rows_of(const weight_source& matrix, share_range range);

} // namespace tropilla
