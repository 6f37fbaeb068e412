/// Reads the hyper-parameters of a Llama-architecture model from GGUF metadata and checks them against its tensors.
#pragma once

#include "kernels/ops.hpp"
#include "src/model/gguf.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// RoPE as the model wants it. Angle of pair i at position p: p * theta^(-2i/dims) / factors[i] / linear_scale.
struct rope_config {
  double theta = 10000.0;
  std::size_t dims = 0;       ///< rotated values of a head
  double linear_scale = 1.0;  ///< "linear" scaling's factor
  std::vector<float> factors; ///< dims/2 divisors, from the `rope_freqs` tensor or Llama-3.1 metadata; or empty
};

/// Divisors of the `dims / 2` frequencies as Llama 3.1 scales its context: wavelengths shorter than
/// `original_context / high` stay, those longer than `original_context / low` are divided by `factor`, and between
/// them the two are blended. Source: Llama 3.1's reference code (`apply_scaling` in meta-llama/llama-models).
[[nodiscard]] std::vector<float> llama31_rope_factors(double theta, std::size_t dims, double factor, double low,
                                                      double high, double original_context);

/// One matrix of the model: where its bytes lie in the file and what it is.
struct weight_source {
  std::string name;
  tensor_type type{};
  std::size_t rows = 0;    ///< outputs; 1 for vectors
  std::size_t columns = 0; ///< inputs
  std::size_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct llama_layer_sources {
  weight_source attn_norm, attn_q, attn_k, attn_v, attn_output;
  weight_source ffn_norm, ffn_gate, ffn_up, ffn_down;
};

/// A validated model: everything that a forward pass and a plan need to know.
struct llama_config {
  std::string name;
  std::size_t layers = 0;
  std::size_t width = 0;
  std::size_t ffn_width = 0;
  std::size_t vocabulary = 0;
  std::size_t context = 0; ///< what the model was trained for
  attention_shape attention;
  float norm_epsilon = 1e-5F;
  rope_config rope;
  std::string type_name; ///< of most weights: "Q4_1"
  std::uint64_t parameters = 0;
  std::uint64_t weight_bytes = 0; ///< bytes that a decode step reads, as stored in the file

  weight_source token_embedding;
  weight_source output_norm;
  std::optional<weight_source> output; ///< empty: tied to token_embedding
  std::vector<llama_layer_sources> layer_sources;
  /// Sentences about defects of the file that do not keep it from being read.
  std::vector<std::string> notices;

  /// A matrix that holds query, key and value of a layer, one below the other, is read as the three.
  /// Throws `error`: unsupported (another architecture, an adapter, biases, experts, RoPE scalings tropilla does not
  /// know), malformed_file (a missing key or tensor, zero heads, heads that don't divide, a shape or type that
  /// contradicts). `rope_freqs` is read from the file.
  [[nodiscard]] static llama_config read(const gguf_file& file);
};

} // namespace tropilla
