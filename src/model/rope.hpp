/// Computes the frequencies and tables of the rotary position embedding.
///
/// Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.2.2; the
/// divisors of Llama 3.1 come with the model (`llama_config::rope.factors`).
#pragma once

#include "kernels/ops.hpp"
#include "src/model/llama_config.hpp"

#include <cstddef>

namespace tropilla {

/// Bytes of the cosines and sines of `positions` positions.
[[nodiscard]] std::size_t rope_table_bytes(const rope_config& rope, std::size_t positions) noexcept;

/// Fills `memory` (`rope_table_bytes` of it, 64-byte aligned) and returns the view of it. Angles in float64.
[[nodiscard]] rope_table make_rope_table(const rope_config& rope, std::size_t positions, std::byte* memory);

} // namespace tropilla
