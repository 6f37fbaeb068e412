/// Declares the kernels of a CUDA device: the operations of `ops.hpp`, each enqueued on a stream.
///
/// Pointers are to the device's memory unless a comment says otherwise. Weights are packed as the host has them
/// (`packed.hpp`), activations stored as the host stores them (`activation_format.hpp`): a packed cache serves
/// both, and both round in the same places. Sums run in another order, so the last bits differ.
///
/// Functions only enqueue, and throw `error` (device_failed) when a launch is refused. Any thread, for streams that no
/// other thread uses at the same time.
#pragma once

#include "kernels/activation_format.hpp"
#include "kernels/ops.hpp"
#include "memory/rounding.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

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
  constexpr auto most = static_cast<unsigned>(attention_tile_queries);
  const unsigned pieces = divide_up(group, most);
  return divide_up(group, pieces);
}
/// Rows of a tile: those that follow each other in a sequence.
[[nodiscard]] constexpr unsigned attention_tile_rows(const attention_shape& shape) noexcept {
  constexpr auto most = static_cast<unsigned>(attention_tile_queries);
  return most / attention_tile_heads(static_cast<unsigned>(shape.heads / shape.kv_heads));
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

/// The table of one build of the kernels: `cuda`, or `cuda_emulated` for tests.
struct kernel_table {
  /// As `ops::embed`; `ids` is `[rows]`.
  void (*embed)(void* stream, const packed_matrix& table, const std::int32_t* ids, std::size_t rows, float* x);
  /// As `ops::rms_norm`, into `out.width` columns of `out`.
  void (*rms_norm)(void* stream, const float* x, const float* weight, float epsilon, std::size_t rows,
                   std::size_t width, const activation_view& out);
  /// As `ops::quantise_activation`.
  void (*store)(void* stream, const float* x, std::size_t stride, std::size_t rows, std::size_t width,
                const activation_view& out);
  /// Stores `silu(gate) * up`; rows of both are `stride` floats apart.
  void (*store_swiglu)(void* stream, const float* gate, const float* up, std::size_t stride, std::size_t rows,
                       std::size_t width, const activation_view& out);
  /// As `ops::linear`. F16 and BF16 weights meet inputs that are rounded to the same type. On a GPU with warpgroup
  /// products many inputs are rounded into `rounded`, of `rounded_bytes`; it is null on others. The sums' bits are the
  /// same.
  void (*linear)(void* stream, const activation_view& input, std::size_t rows, std::span<const linear_target> targets,
                 std::byte* rounded);
  /// Computes what `linear` and `store_swiglu` would make of both products, into the float32 rows of `out`. For GPUs
  /// that have warpgroup products. @pre both have one layout, for which `wgmma_fits`; `rounded` as above
  void (*gated_linear)(void* stream, const activation_view& input, std::size_t rows, const packed_matrix& gate,
                       const packed_matrix& up, const activation_view& out, std::byte* rounded);
  /// As `ops::rope_and_append`.
  void (*rope_and_append)(void* stream, float* q, const float* k, const float* v, std::size_t stride,
                          const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                          const attention_metadata& step);
  /// As `ops::attention`. `scratch` has `attention_scratch_bytes`.
  void (*attention)(void* stream, const float* q, std::size_t stride, const attention_shape& shape,
                    const kv_layer& layer, const attention_metadata& step, float* out, std::byte* scratch);
  /// As `ops::gather_rows`.
  void (*gather_rows)(void* stream, const float* x, std::size_t width, const std::uint32_t* rows, std::size_t count,
                      float* out);
  /// As `ops::top_k`.
  void (*top_k)(void* stream, float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k, candidate* out);
};

[[nodiscard]] const kernel_table& kernels() noexcept;

} // namespace tropilla::cuda

namespace tropilla::cuda_emulated {
/// The table of the same sources compiled for the processor, in the library of the tests only. Streams are ignored:
/// calls compute.
[[nodiscard]] const cuda::kernel_table& kernels() noexcept;
/// Chooses when kernels' asynchronous copies are done: at once, or as late as they are waited for (the default). Call
/// it between kernels.
void let_copies_come_early(bool early);
} // namespace tropilla::cuda_emulated
