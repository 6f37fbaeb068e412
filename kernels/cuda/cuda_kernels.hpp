/// Declares the kernels of a CUDA device, each as the struct of its arguments: the operations of `ops.hpp`, and what
/// they consist of.
///
/// Pointers are to the device's memory unless a comment says otherwise. Weights are packed as the host has them
/// (`packed.hpp`), activations stored as the host stores them (`activation_format.hpp`): a packed cache serves both,
/// and both round in the same places. Sums run in another order, so the last bits differ.
#pragma once

#include "kernels/activation_format.hpp"
#include "kernels/ops.hpp"
#include "memory/rounding.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <variant>

namespace tropilla::cuda {

/// Numbers of the largest key or value head that attention takes.
inline constexpr std::size_t largest_head = 256;

/// The largest number of inputs (int8 rows count) of a product with few inputs, which reads the weights once for
/// each 32 inputs.
inline constexpr std::size_t max_few_inputs = 64;

/// Whether a GPU's warpgroups can multiply so many inputs with weights of this type and width.
[[nodiscard]] constexpr bool wgmma_fits(tensor_type type, std::size_t rows, std::size_t columns) noexcept {
  constexpr std::size_t together = 1024; // sixteen chunks of 64 columns
  return (type == tensor_type::f16 || type == tensor_type::bf16) && rows > max_few_inputs && columns != 0 &&
         columns % together == 0;
}

/// Whether a variable of the environment says "off": newer GPU features can be left out where a GPU stumbles over them.
[[nodiscard]] inline bool turned_off(const char* variable) noexcept {
  const char* const value = std::getenv(variable);
  return value != nullptr && std::string_view(value) == "off";
}

/// Scratch bytes of a product whose inputs `[rows, width]` are rounded before it.
[[nodiscard]] constexpr std::size_t rounded_bytes(std::size_t rows, std::size_t width) noexcept {
  return round_up(rows, 8) * width * sizeof(std::uint16_t);
}

/// Queries of a warp of attention.
inline constexpr std::size_t attention_tile_queries = 8;
/// Pages of a split of a context. Fixed, for the order of sums depends on it.
inline constexpr std::size_t attention_split_pages = 8;

/// Heads of a tile: all heads that share a kv head, or, where these don't fit, an equal part in each of the fewest
/// tiles.
[[nodiscard]] constexpr unsigned attention_tile_heads(unsigned group) noexcept {
  constexpr auto max_queries = static_cast<unsigned>(attention_tile_queries);
  const unsigned pieces = divide_up(group, max_queries);
  return divide_up(group, pieces);
}
/// Rows of a tile: those that follow each other in a sequence.
[[nodiscard]] constexpr unsigned attention_tile_rows(const attention_shape& shape) noexcept {
  constexpr auto max_queries = static_cast<unsigned>(attention_tile_queries);
  return max_queries / attention_tile_heads(static_cast<unsigned>(shape.heads / shape.kv_heads));
}

/// The place of a row of a step in its context.
struct row_place {
  std::uint32_t position = 0;
  std::uint32_t first_page = 0; ///< of its sequence, in the list of page starts
  std::uint32_t first_slot = 0; ///< of its splits
  std::uint32_t splits = 0;     ///< that its context is divided into; 0: one item has all of it
};

inline constexpr std::uint32_t no_slot = ~std::uint32_t{0};

/// The work of one warp of attention, for each kv head: splits of a context, for up to a tile of rows. An item of no
/// rows has no work.
struct attention_item {
  std::uint32_t first_row = 0;
  std::uint32_t rows = 0;
  std::uint32_t first_split = 0;
  std::uint32_t splits = 0;
  std::uint32_t slot = no_slot; ///< where it leaves the result of its one split and one row
};

/// A step's rows, in the device's memory.
struct attention_metadata {
  const row_place* places = nullptr;       ///< [rows]
  std::byte* const* page_starts = nullptr; ///< of one sequence after another
  const attention_item* items = nullptr;   ///< [item_count]
  std::uint32_t rows = 0;
  std::uint32_t item_count = 0;
  std::uint32_t slots = 0;

  friend bool operator==(const attention_metadata&, const attention_metadata&) = default;
};

/// Scratch bytes of attention, for the results in the slots.
[[nodiscard]] constexpr std::size_t attention_scratch_bytes(const attention_shape& shape, std::size_t slots) noexcept {
  return slots * shape.heads * (2 + shape.value_size) * sizeof(float);
}

/// A kernel's arguments. Two calls that are equal do the same.
namespace call {

/// As `ops::embed`.
struct embed {
  packed_matrix table;
  std::int32_t first;
  const std::int32_t* ids; ///< [rows]
  std::size_t rows;
  float* x;
  friend bool operator==(const embed&, const embed&) = default;
};

/// As `ops::rms_norm`, into `width` columns of `out`.
struct rms_norm {
  const float* x;
  const float* weight;
  float epsilon;
  std::size_t rows, width;
  activation_view out;
  friend bool operator==(const rms_norm&, const rms_norm&) = default;
};

/// As `ops::quantise_activation`.
struct store {
  const float* x;
  std::size_t stride, rows, width;
  activation_view out;
  friend bool operator==(const store&, const store&) = default;
};

/// Stores `silu(gate) * up`; rows of both are `stride` floats apart.
struct store_swiglu {
  const float* gate;
  const float* up;
  std::size_t stride, rows, width;
  activation_view out;
  friend bool operator==(const store_swiglu&, const store_swiglu&) = default;
};

/// As `ops::linear`, for the first `count` targets. F16 and BF16 weights meet inputs that are rounded to the same type.
/// On a GPU with warpgroup products many inputs are rounded into `rounded`, of `rounded_bytes`; it is null on others.
/// The sums' bits are the same.
struct linear {
  static constexpr std::size_t max_targets = 3;
  activation_view input;
  std::size_t rows;
  std::array<linear_target, max_targets> targets;
  std::size_t count;
  std::byte* rounded;
  friend bool operator==(const linear&, const linear&) = default;
};

/// Computes what `linear` and `store_swiglu` would make of both products, into the float32 rows of `out`. For GPUs that
/// have warpgroup products. @pre both have one layout, for which `wgmma_fits`; `rounded` as above
struct gated_linear {
  activation_view input;
  std::size_t rows;
  packed_matrix gate, up;
  activation_view out;
  std::byte* rounded;
  friend bool operator==(const gated_linear&, const gated_linear&) = default;
};

/// As `ops::rope_and_append`.
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

/// As `ops::attention`.
struct attention {
  const float* q;
  std::size_t stride;
  attention_shape shape;
  kv_layer layer;
  attention_metadata step;
  float* out;
  std::byte* scratch; ///< of `attention_scratch_bytes`
  friend bool operator==(const attention&, const attention&) = default;
};

/// As `ops::gather_rows`.
struct gather_rows {
  const float* x;
  std::size_t width;
  const std::uint32_t* rows; ///< [count]
  std::size_t count;
  float* out;
  friend bool operator==(const gather_rows&, const gather_rows&) = default;
};

/// As `ops::top_k`.
struct top_k {
  float* logits;
  std::size_t rows, vocabulary, k;
  token_logit* out;
  friend bool operator==(const top_k&, const top_k&) = default;
};

} // namespace call

using kernel_call =
    std::variant<call::embed, call::rms_norm, call::store, call::store_swiglu, call::linear, call::gated_linear,
                 call::rope_and_append, call::attention, call::gather_rows, call::top_k>;

/// Enqueues a kernel on a stream of the calling thread's GPU. A launch that is refused shows where the stream is
/// synchronised. Any thread, for streams that no other thread uses at the same time.
void enqueue(void* stream, const kernel_call& c);

} // namespace tropilla::cuda

namespace tropilla::cuda_emulated {
/// Enqueues a kernel of the same sources compiled for the processor, in the library of the tests only: computes it, or
/// keeps it for later (`emulation::keep`).
void enqueue(void* stream, const cuda::kernel_call& c);
/// Chooses when kernels' asynchronous copies are done: at once, or as late as they are waited for (the default). Call
/// it between kernels.
void let_copies_come_early(bool early);
} // namespace tropilla::cuda_emulated
