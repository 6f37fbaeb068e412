/// Random-weight models of well-known shapes, so that any size can be measured without a download.
#pragma once

#include "kernels/tensor_type.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace tropilla {

/// A shape by name. Values follow the published configurations of the Llama 3 family; "mini" is for tests.
struct model_shape {
  std::string_view name;
  std::size_t layers, width, ffn_width, heads, kv_heads, head_size, vocabulary, context;
  double rope_theta;
  bool llama31_rope; ///< scaling factors as Llama 3.1 (factor, low, high, original context) in a rope_freqs tensor
  double rope_factor;
  bool tied;
};

/// mini, llama-3.2-1b, llama-3.2-3b, llama-3-8b.
[[nodiscard]] std::span<const model_shape> model_shapes();

struct synth_options {
  std::string shape = "mini";
  tensor_type type = tensor_type::q4_0; ///< of the matrices; norms are F32
  std::uint64_t seed = 1;
};

/// Writes the model, atomically (a temporary file beside it, renamed at the end). The embedding of K and 4-bit types is
/// stored as llama.cpp's quantiser would: Q6_K for tied heads (Q8_0 where the width is no multiple of 256).
/// The vocabulary is synthetic byte-level BPE with the Llama 3 special tokens and a Llama 3 chat template.
/// `progress` (may be empty) gets bytes done and bytes in all. Throws `error` (invalid_argument, io_error).
void write_synthetic_model(const std::filesystem::path& path, const synth_options& options,
                           const std::function<void(std::uint64_t, std::uint64_t)>& progress);

} // namespace tropilla
