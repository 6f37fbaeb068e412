/// Writes random-weight models of well-known shapes, so that any size can be measured without a download.
#pragma once

#include "kernels/tensor_type.hpp"
#include "tropilla/types.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// A shape with a name. Values follow the published configurations of the Llama 3 family; "mini" and its kin are for
/// tests.
struct model_shape {
  std::string_view name;
  std::size_t layers, width, ffn_width, heads, kv_heads, head_size, vocabulary, context;
  double rope_theta;
  bool llama31_rope; ///< scaling factors as Llama 3.1 (factor, low, high, original context) in a rope_freqs tensor
  double rope_factor;
  bool tied;
};

/// mini, mini-untied, mini-heads, mini-odd, mini-vocabulary, mini-wide, llama-3.2-1b, llama-3.2-3b, llama-3-8b.
[[nodiscard]] std::span<const model_shape> model_shapes();

struct synth_options {
  std::string shape = "mini";
  tensor_type type = tensor_type::q4_0; ///< of the matrices; norms are F32
  std::uint64_t seed = 1;
};

/// The type that a matrix of `columns` columns gets when `wanted` was asked for: where its rows are no whole blocks,
/// what llama.cpp falls back to (Q2_K and Q3_K to IQ4_NL, Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0, all else to F16).
[[nodiscard]] tensor_type storable_type(tensor_type wanted, std::size_t columns) noexcept;

/// Writes the model, atomically (a temporary file beside it, renamed at the end). The embedding of K and 4-bit types is
/// stored as llama.cpp's quantiser would: Q6_K for tied heads (Q8_0 where the width is no multiple of 256).
/// The vocabulary is synthetic byte-level BPE with the Llama 3 special tokens and a Llama 3 chat template.
/// `progress` (may be empty) gets bytes done and bytes in all. Throws `error` (invalid_argument, io_error).
void write_synthetic_model(const std::filesystem::path& path, const synth_options& options,
                           const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// A prompt without a meaning, for benchmarks and tests: the same for the same arguments on every machine.
[[nodiscard]] std::vector<token_id> synthetic_ids(std::size_t count, std::size_t vocabulary, std::uint64_t seed = 0);

} // namespace tropilla
