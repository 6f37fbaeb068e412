/// Groups, packs and places a model's weights: a weight group is what is loaded, leased and needed as one.
///
/// Group 0 is the token embedding, groups 1 to n are the layers, group n + 1 is the output's norm. Then comes the
/// output head, unless it is tied to the embedding: one copy serves both.
///
/// Tiled, for budgets that don't hold everything, the head is cut into groups of rows no larger than a layer, and group
/// 0 is empty: the rows that a step names are looked up on disk. A tied matrix is then the
/// head's.
///
/// The packed bytes do not depend on the form: a group is a range of a section, and a packed cache stores the sections
/// (the embedding, each layer, the norm, the head).
#pragma once

#include "kernels/device.hpp"
#include "kernels/packed.hpp"
#include "memory/plan.hpp"
#include "memory/rounding.hpp"
#include "src/model/llama_config.hpp"
#include "src/model/step.hpp"
#include "src/model/tensor_share.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// One tensor inside a group. Vectors (norms) become float32; matrices are packed.
struct group_tensor {
  weight_source source;
  packed_layout layout;   ///< of a matrix; rows == 0 for a vector
  std::size_t offset = 0; ///< from the group's start, a multiple of 64
  std::size_t bytes = 0;  ///< in memory

  [[nodiscard]] bool is_vector() const noexcept { return layout.rows == 0; }
};

struct weight_group_layout {
  std::string name; ///< "embedding", "layer 12", "output norm", "head", "head 3"
  std::vector<group_tensor> tensors;
  std::size_t bytes = 0;          ///< in memory
  std::size_t file_bytes = 0;     ///< to read
  std::size_t section = 0;        ///< that it is a range of
  std::size_t section_offset = 0; ///< where it begins in it: a multiple of `group_alignment`
};

/// Groups begin at multiples of this, in sections and in memory: what O_DIRECT wants.
inline constexpr std::size_t group_alignment = 4096;

/// Bytes, up to the next multiple of `group_alignment`.
[[nodiscard]] constexpr std::size_t to_group_alignment(std::size_t bytes) noexcept {
  return round_up(bytes, group_alignment);
}

/// Packed bytes that belong together whatever the form of the layout.
struct weight_section {
  std::string name; ///< "embedding", "layer 12", "output norm", "head"
  std::size_t bytes = 0;
  std::size_t unit_bytes = 0; ///< groups that are a range of it begin at multiples of this; 0: none is
};

enum class weight_form : std::uint8_t { whole, tiled };

/// The layers [first, last) that a device has. The device with the first layer has the embedding, too, and the one with
/// the last layer the output; a tied matrix lies on both where these are two.
struct layer_range {
  std::size_t first = 0;
  std::size_t last = static_cast<std::size_t>(-1); ///< or the model's number of layers, if that is less
};

/// Typed views into loaded groups.
struct layer_weights {
  const float* attn_norm = nullptr;
  packed_matrix q, k, v, attn_output;
  const float* ffn_norm = nullptr;
  packed_matrix gate, up, down;
};

struct llama_layout {
  llama_config config;
  std::vector<weight_group_layout> groups;
  std::vector<weight_section> sections;
  std::size_t tile_rows = 0; ///< of the head's groups but the last
  layer_range range;         ///< groups of other devices have neither tensors nor bytes
  tensor_share share;        ///< of each matrix
  attention_shape attention; ///< of the share's heads

  /// Throws `error` (unsupported) when a matrix can't be packed.
  /// `max_tile_bytes`: of a tile of the head, as far as one can be so small; 0: the largest layer's.
  /// `share`: empty: one device has all rows of a matrix.
  [[nodiscard]] static llama_layout make(llama_config config, weight_form form = weight_form::whole,
                                         std::size_t max_tile_bytes = 0, layer_range range = {},
                                         std::optional<tensor_share> share = {});

  [[nodiscard]] std::size_t norm_group() const noexcept { return config.layers + 1; }
  /// The first group of the head; the groups from there on are tiles of it, in the order of its rows. If there are
  /// none, group 0 is the head, too.
  [[nodiscard]] std::size_t first_head_group() const noexcept { return config.layers + 2; }
  /// Whether the embedding's rows are on disk and not in memory.
  [[nodiscard]] bool embedding_on_disk() const noexcept { return has_input() && groups.front().tensors.empty(); }
  [[nodiscard]] bool has_input() const noexcept { return range.first == 0; }
  [[nodiscard]] bool has_output() const noexcept { return range.last == config.layers; }
  /// The device's groups are [begin_group, end_group).
  [[nodiscard]] std::size_t begin_group() const noexcept { return has_input() ? 0 : range.first + 1; }
  [[nodiscard]] std::size_t end_group() const noexcept { return has_output() ? groups.size() : range.last + 1; }
  /// The whole embedding, whatever the share: a row is looked up by its token.
  [[nodiscard]] const weight_source& embedding_source() const noexcept { return config.token_embedding; }
  /// Values of a row of `buffer::logits`: all, on the rank that gathers them.
  [[nodiscard]] std::size_t logits_width() const noexcept {
    return share.rank == 0 ? config.vocabulary : share.of(share.vocabulary).count;
  }
  /// The only matrix of a group: the embedding, the head or a tile of it.
  [[nodiscard]] packed_matrix matrix(std::size_t group, const std::byte* memory) const;
  [[nodiscard]] layer_weights layer(std::size_t index, const std::byte* group) const;
  [[nodiscard]] const float* output_norm(const std::byte* group) const;

  [[nodiscard]] std::size_t file_bytes() const;
  /// Packed bytes that a decode step reads: every matrix once, of the embedding only what the head uses.
  [[nodiscard]] std::size_t decode_bytes() const;
};

/// The buffers of a forward pass, in the order of the arena's offsets.
enum class buffer : std::uint8_t {
  hidden,       ///< [max_batch_tokens, width] float: the residual stream
  attn_input,   ///< activation, width
  qkv,          ///< [max_batch_tokens, q + k + v] float
  attn_heads,   ///< [max_batch_tokens, heads * value_size] float: what the share's heads put out
  o_proj_part,  ///< activation of attn_heads, where they are a part
  o_proj_input, ///< activation of all heads: what the output projection reads
  ffn_input,    ///< activation, width
  ffn_part,     ///< activation, the share of ffn_width, where that is a part
  ffn_result,   ///< activation, ffn_width
  head_rows,    ///< [logit_rows, width] float
  head_input,   ///< activation, width
  logits,       ///< [logit_rows, logits_width()] float
};
inline constexpr std::size_t buffer_count = 12;

/// The kind of each activation that the matrices reading it want, over all layers.
struct activation_kinds_of_model {
  activation_kind attn_input, o_proj_input, ffn_input, ffn_result, head_input;
};
[[nodiscard]] activation_kinds_of_model activation_kinds(const llama_layout& layout);

/// Bytes of the rotary tables and the device's scratch.
[[nodiscard]] std::size_t workspace_bytes(const llama_layout& layout, const run_shape& shape, const device& dev);

/// Bytes and lifetimes of the buffers, in the order of `buffer`.
[[nodiscard]] std::vector<buffer_lifetime> forward_buffers(const llama_layout& layout, const run_shape& shape,
                                                           const device& dev);

/// Bytes of one KV page, all of the device's layers and the share's heads.
[[nodiscard]] std::size_t kv_page_bytes(const llama_layout& layout, kv_type type);
/// Bytes from the beginning of a page to that of the next.
[[nodiscard]] std::size_t kv_page_stride(const llama_layout& layout, kv_type type);

/// Everything that `make_plan` needs for a run on one device, except its budget, with all KV pages that the shape may
/// have. `staging_bytes` is the loader's.
/// Layers and tiles of the head may be streamed; the rest stays. Blocks begin at multiples of `group_alignment`.
[[nodiscard]] plan_input make_plan_input(const llama_layout& layout, const run_shape& shape, const device& dev,
                                         std::size_t staging_bytes);

} // namespace tropilla
