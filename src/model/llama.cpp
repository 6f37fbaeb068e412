// Computes embedding, layers and output head, one screen each.
#include "src/model/llama.hpp"

#include "kernels/activation_format.hpp"
#include "src/model/rope.hpp"

#include <algorithm>
#include <array>
#include <tuple>

namespace tropilla {
namespace {

/// What the devices of a layer exchange: each writes a part and has all of it afterwards. Alone a device has all.
class layer_exchange {
public:
  layer_exchange(ops& o, communicator* group, const llama_workspace& space, std::size_t rows)
      : ops_(o), group_(group), space_(space), rows_(rows) {}

  /// Where this device writes its part of `all`, a number of values of each row.
  [[nodiscard]] activation part_of(const activation& all, buffer part, std::size_t width) const {
    return group_ ? space_.as_activation(part, all.kind, all.rows, width) : all;
  }

  /// `bounds`: of the values that each device has written; all but the last are multiples of `activation_padding`.
  void gather(const activation& part, const activation& all, std::span<const std::size_t> bounds) const {
    if (!group_)
      return;
    std::array<gathered_rows, std::tuple_size_v<activation_arrays>> arrays;
    const auto from = arrays_of(ops_.view(part)), to = arrays_of(ops_.view(all));
    std::size_t count = 0;
    for (std::size_t i = 0; i < to.size(); ++i)
      if (to[i].data != nullptr)
        arrays[count++] = {from[i].data, from[i].stride, to[i].data, to[i].stride, to[i].unit, activation_padding};
    group_->all_gather(ops_, std::span(arrays).first(count), rows_, bounds);
  }

  /// Each device has written the columns [bounds[rank], bounds[rank + 1]) of `all` in place.
  void gather(float* all, std::size_t stride, std::span<const std::size_t> bounds) const {
    if (!group_)
      return;
    const gathered_rows columns[] = {
        in_place(reinterpret_cast<std::byte*>(all), stride * sizeof(float), sizeof(float), bounds[group_->rank()])};
    group_->all_gather(ops_, columns, rows_, bounds);
  }

private:
  ops& ops_;
  communicator* group_;
  const llama_workspace& space_;
  std::size_t rows_;
};

void forward_layer(ops& o, communicator* group, const llama_layout& layout, const llama_workspace& space, const step& s,
                   const layer_weights& w, const kv_layer& kv) {
  const auto& c = layout.config;
  const auto& a = layout.attention;
  const auto& share = layout.share;
  const auto& kinds = space.kinds();
  const std::size_t rows = s.ids.size();
  const std::size_t q_width = a.heads * a.key_size;
  const std::size_t k_width = a.kv_heads * a.key_size;
  const std::size_t qkv_width = q_width + k_width + a.kv_heads * a.value_size;
  float* const hidden = space.floats(buffer::hidden);
  float* const hidden_part = hidden + share.of(share.width).first;
  const auto capacity = space.shape().max_batch_tokens;
  const layer_exchange exchange(o, group, space, rows);

  const auto attn_input = space.as_activation(buffer::attn_input, kinds.attn_input, capacity, c.width);
  o.rms_norm(hidden, w.attn_norm, c.norm_epsilon, rows, attn_input);

  float* const q = space.floats(buffer::qkv);
  float* const k = q + q_width;
  float* const v = k + k_width;
  const linear_target qkv[] = {{w.q, q, qkv_width, false}, {w.k, k, qkv_width, false}, {w.v, v, qkv_width, false}};
  o.linear(attn_input, rows, qkv);

  float* const attn_heads = space.floats(buffer::attn_heads);
  o.rope_and_append(q, k, v, qkv_width, a, space.rope(), kv, s.sequences);
  o.attention(q, qkv_width, a, kv, s.sequences, attn_heads);

  const auto o_proj_input = space.as_activation(buffer::o_proj_input, kinds.o_proj_input, capacity,
                                                c.attention.heads * c.attention.value_size);
  const auto o_proj_part = exchange.part_of(o_proj_input, buffer::o_proj_part, a.heads * a.value_size);
  o.quantise_activation(attn_heads, a.heads * a.value_size, rows, o_proj_part);
  exchange.gather(o_proj_part, o_proj_input, share.attn_values);
  const linear_target residual_1[] = {{w.attn_output, hidden_part, c.width, true}};
  o.linear(o_proj_input, rows, residual_1);
  exchange.gather(hidden, c.width, share.width);

  const auto ffn_input = space.as_activation(buffer::ffn_input, kinds.ffn_input, capacity, c.width);
  o.rms_norm(hidden, w.ffn_norm, c.norm_epsilon, rows, ffn_input);
  const auto ffn_result = space.as_activation(buffer::ffn_result, kinds.ffn_result, capacity, c.ffn_width);
  const auto ffn_part = exchange.part_of(ffn_result, buffer::ffn_part, share.of(share.ffn).count);
  o.gated_linear(ffn_input, rows, w.gate, w.up, ffn_part);
  exchange.gather(ffn_part, ffn_result, share.ffn);
  const linear_target residual_2[] = {{w.down, hidden_part, c.width, true}};
  o.linear(ffn_result, rows, residual_2);
  exchange.gather(hidden, c.width, share.width);
}

/// Looks the tokens' rows up, each on the device that has it. One that has none in memory has all of them from the
/// disk: putting the same bits together changes nothing.
void forward_embedding(ops& o, communicator* group, const llama_layout& layout, const llama_workspace& space,
                       const step& s, loaded_groups groups) {
  float* const hidden = space.floats(buffer::hidden);
  const auto mine = layout.share.of(layout.share.vocabulary);
  if (!layout.embedding_on_disk())
    o.embed(layout.matrix(0, groups[0]), static_cast<std::int32_t>(mine.first), s.ids, hidden);
  if (group)
    group->combine(o, hidden, s.ids.size() * layout.config.width);
}

activation head_input(const llama_layout& layout, const llama_workspace& space) {
  return space.as_activation(buffer::head_input, space.kinds().head_input, space.shape().logit_rows,
                             layout.config.width);
}

void forward_norm(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s, const float* norm) {
  float* const chosen = space.floats(buffer::head_rows);
  o.gather_rows(space.floats(buffer::hidden), layout.config.width, s.logit_rows, chosen);
  o.rms_norm(chosen, norm, layout.config.norm_epsilon, s.logit_rows.size(), head_input(layout, space));
}

float* own_logits(const llama_layout& layout, const llama_workspace& space) {
  return space.floats(buffer::logits) + (layout.share.rank == 0 ? layout.share.of(layout.share.vocabulary).first : 0);
}

/// Computes the logits of the share's entries of the vocabulary from `first` on, as many as the matrix has rows.
void forward_head(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                  const packed_matrix& head, std::size_t first) {
  const linear_target logits[] = {{head, own_logits(layout, space) + first, layout.logits_width(), false}};
  o.linear(head_input(layout, space), s.logit_rows.size(), logits);
}

/// Gathers all logits on the first rank.
void gather_logits(ops& o, communicator* group, const llama_layout& layout, const llama_workspace& space,
                   const step& s) {
  if (!group)
    return;
  auto* const part = reinterpret_cast<std::byte*>(own_logits(layout, space));
  const std::size_t row = layout.logits_width() * sizeof(float);
  std::byte* const all = group->rank() == 0 ? space.at(buffer::logits) : nullptr;
  const gathered_rows columns[] = {{part, row, all, row, sizeof(float), 1}};
  group->all_gather(o, columns, s.logit_rows.size(), layout.share.vocabulary);
}

/// Computes everything behind the layers.
void forward_output(ops& o, communicator* group, const llama_layout& layout, const llama_workspace& space,
                    const step& s, loaded_groups groups, std::size_t g) {
  if (s.logit_rows.empty())
    return;
  if (g == layout.norm_group())
    forward_norm(o, layout, space, s, layout.output_norm(groups[g]));
  else
    forward_head(o, layout, space, s, layout.matrix(g, groups[g]), (g - layout.first_head_group()) * layout.tile_rows);
  if (layout.first_head_group() == layout.groups.size())
    forward_head(o, layout, space, s, layout.matrix(0, groups[0]), 0);
  if (g + 1 == layout.groups.size())
    gather_logits(o, group, layout, space, s);
}

} // namespace

llama_workspace::llama_workspace(const llama_layout& layout, const run_shape& shape, device& dev,
                                 std::byte* activations, std::span<const std::size_t> offsets, std::byte* workspace,
                                 bool gives_scratch)
    : shape_(shape), kinds_(activation_kinds(layout)) {
  for (std::size_t i = 0; i < buffer_count; ++i)
    buffers_[i] = activations + offsets[i];
  const auto rope_bytes = rope_table_bytes(layout.config.rope, shape.context);
  std::vector<std::byte> apart(dev.host_memory() ? 0 : rope_bytes);
  std::byte* const tables = dev.host_memory() ? workspace : apart.data();
  rope_ = make_rope_table(layout.config.rope, shape.context, tables);
  if (!dev.host_memory()) {
    dev.upload(tables, workspace, rope_bytes);
    rope_.cos = reinterpret_cast<const float*>(workspace + (reinterpret_cast<const std::byte*>(rope_.cos) - tables));
    rope_.sin = reinterpret_cast<const float*>(workspace + (reinterpret_cast<const std::byte*>(rope_.sin) - tables));
  }
  if (gives_scratch)
    dev.set_scratch(workspace + rope_bytes, workspace_bytes(layout, shape, dev) - rope_bytes);
}

llama_workspace llama_workspace::over(std::byte* activations, std::span<const std::size_t> offsets, std::size_t rows,
                                      std::size_t logit_rows) const {
  llama_workspace other(*this);
  for (std::size_t i = 0; i < buffer_count; ++i)
    other.buffers_[i] = activations + offsets[i];
  other.shape_.max_batch_tokens = rows;
  other.shape_.logit_rows = logit_rows;
  return other;
}

void copy_pages(ops& o, const step& s, std::span<std::byte* const> starts, std::size_t page_bytes) {
  for (const auto& c : s.copies)
    o.copy(starts[c.from], starts[c.to], page_bytes);
}

void forward_groups(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                    loaded_groups groups, std::size_t first, std::size_t last, communicator* group) {
  if (layout.share.is_whole()) // there is nothing to exchange
    group = nullptr;
  const auto& a = layout.attention;
  const auto type = space.shape().kv;
  const auto page_layer_bytes = kv_layer_bytes(type, a.kv_heads, a.key_size, a.value_size);
  for (std::size_t g = first; g < last; ++g) {
    if (g == 0) {
      forward_embedding(o, group, layout, space, s, groups);
    } else if (g >= layout.norm_group()) {
      forward_output(o, group, layout, space, s, groups, g);
    } else {
      forward_layer(o, group, layout, space, s, layout.layer(g - 1, groups[g]),
                    {(g - 1 - layout.range.first) * page_layer_bytes, type});
    }
  }
}

std::size_t top_k_of(const llama_layout& layout, const step& s) noexcept {
  const std::size_t vocabulary = layout.config.vocabulary;
  const std::size_t room = layout.config.width * sizeof(float) / sizeof(token_logit); // of a row of `head_rows`
  const bool can = s.top_k <= std::min({max_top_k, room, vocabulary / 2}) && vocabulary <= max_top_k_vocabulary;
  return can ? s.top_k : 0;
}

void keep_top_k(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s) {
  o.top_k(space.floats(buffer::logits), s.logit_rows.size(), layout.config.vocabulary, top_k_of(layout, s),
          top_k_buffer(space));
}

} // namespace tropilla
