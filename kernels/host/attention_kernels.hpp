/// Kernels for attention of a few query vectors over one chunk of a paged KV cache.
///
/// The context is cut into chunks of `attention_chunk` tokens at fixed positions. Per chunk a query vector gets `m =
/// max s`, `l = sum e^(s - m)` and `o = sum e^(s - m) v`, where s are its scaled scores; chunks are merged in the order
/// of their positions (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
/// "FlashAttention", 2022). Each sum runs over ascending indices with one multiply-add a step, so a vector's bits do
/// not depend on which vectors are computed with it, on the instruction set, or on which worker computed which chunk.
#pragma once

#include "kernels/ops.hpp"
#include "memory/rounding.hpp"

#include <cstddef>
#include <cstdint>

namespace tropilla::host {

/// Tokens whose scores share a maximum. More would cost cache for scores (512 B a query vector), fewer merges.
inline constexpr std::size_t attention_chunk = 4 * kv_page_tokens;

/// Values of a head, rounded up to whole vectors of sixteen.
[[nodiscard]] constexpr std::size_t padded_head(std::size_t size) noexcept {
  return round_up(size, 16);
}

/// Running results of query vectors: `o` is `[vectors, padded_head(value_size)]`.
struct attention_state {
  float* m = nullptr;
  float* l = nullptr;
  float* o = nullptr;
};

/// One chunk of one kv head for `vectors` query vectors.
struct attention_chunk_job {
  const float* queries = nullptr;       ///< as `pack_queries` stores them
  const std::size_t* visible = nullptr; ///< per vector: tokens of this chunk that it sees, ascending; 0: none
  std::size_t vectors = 0;
  std::byte* const* pages = nullptr; ///< of the chunk
  std::size_t pages_after = 0;       ///< that follow them in `pages`, to fetch ahead
  std::size_t key_offset = 0;        ///< bytes from a page's start to this head's keys (`kv_head_bytes`)
  std::size_t value_offset = 0;      ///< and to its values
  std::size_t key_size = 0, value_size = 0;
  float* scores = nullptr; ///< scratch: `[vectors, attention_chunk]`
  float* keys = nullptr;   ///< scratch: `[key_size, 32]`
  float* values = nullptr; ///< scratch: `[attention_chunk, padded_head(value_size)]`
  attention_state out;
};

struct attention_kernels {
  /// Stores scaled query vectors as tiles: each tile `[key_size, its vectors]`. Vector `v` is head `v % group` of row
  /// `v / group`: `q + (v / group) * stride + (v % group) * key_size`.
  void (*pack_queries)(const float* q, std::size_t stride, std::size_t group, std::size_t vectors, std::size_t key_size,
                       float scale, float* packed) noexcept;
  /// Computes `out` of the vectors that see anything; one function for each `kv_type`, in their order.
  void (*chunk[3])(const attention_chunk_job& job) noexcept;
  /// Merges a later chunk into the running state of `vectors` vectors; those with `visible` 0 stay as they are.
  void (*merge)(const attention_state& state, const attention_state& later, const std::size_t* visible,
                std::size_t vectors, std::size_t value_size) noexcept;
  /// `out[0 .. value_size) = o / l` of vector `v`.
  void (*finish)(const attention_state& state, std::size_t v, std::size_t value_size, float* out) noexcept;
};

namespace scalar {
[[nodiscard]] const attention_kernels& attention() noexcept;
}
namespace avx2 {
[[nodiscard]] const attention_kernels& attention() noexcept;
}
namespace avx512 {
[[nodiscard]] const attention_kernels& attention() noexcept;
}
/// The AVX-512 sources over SIMDe, on AVX2: in the library of the tests only.
namespace avx512_emulated {
[[nodiscard]] const attention_kernels& attention() noexcept;
}

} // namespace tropilla::host
