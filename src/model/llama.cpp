// Computes embedding, layers and output head, one screen each.
#include "src/model/llama.hpp"

#include "src/model/rope.hpp"

#include <algorithm>

namespace tropilla {
namespace {

void forward_layer(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                   const layer_weights& w, const kv_layer& kv) {
  const auto& c = layout.config;
  const auto& a = c.attention;
  const auto& kinds = space.kinds();
  const std::size_t rows = s.ids.size();
  const std::size_t q_width = a.heads * a.key_size;
  const std::size_t k_width = a.kv_heads * a.key_size;
  const std::size_t qkv_width = q_width + k_width + a.kv_heads * a.value_size;
  const std::size_t out_width = a.heads * a.value_size;
  float* const hidden = space.floats(buffer::hidden);
  const auto capacity = space.shape().max_batch_tokens;

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

  const auto o_proj_input = space.as_activation(buffer::o_proj_input, kinds.o_proj_input, capacity, out_width);
  o.quantise_activation(attn_heads, out_width, rows, o_proj_input);
  const linear_target residual_1[] = {{w.attn_output, hidden, c.width, true}};
  o.linear(o_proj_input, rows, residual_1);

  const auto ffn_input = space.as_activation(buffer::ffn_input, kinds.ffn_input, capacity, c.width);
  o.rms_norm(hidden, w.ffn_norm, c.norm_epsilon, rows, ffn_input);
  const auto ffn_result = space.as_activation(buffer::ffn_result, kinds.ffn_result, capacity, c.ffn_width);
  o.gated_linear(ffn_input, rows, w.gate, w.up, ffn_result);
  const linear_target residual_2[] = {{w.down, hidden, c.width, true}};
  o.linear(ffn_result, rows, residual_2);
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

/// Computes the logits of the vocabulary's entries from `first` on, as many as the matrix has rows.
void forward_head(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                  const packed_matrix& head, std::size_t first) {
  const linear_target logits[] = {{head, space.floats(buffer::logits) + first, layout.config.vocabulary, false}};
  o.linear(head_input(layout, space), s.logit_rows.size(), logits);
}

/// Computes everything behind the layers.
void forward_output(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                    loaded_groups groups, std::size_t g) {
  if (s.logit_rows.empty())
    return;
  if (g != layout.norm_group()) {
    forward_head(o, layout, space, s, layout.matrix(g, groups[g]), (g - layout.first_head_group()) * layout.tile_rows);
    return;
  }
  forward_norm(o, layout, space, s, layout.output_norm(groups[g]));
  if (layout.first_head_group() == layout.groups.size())
    forward_head(o, layout, space, s, layout.matrix(0, groups[0]), 0);
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
                    loaded_groups groups, std::size_t first, std::size_t last) {
  const auto& a = layout.config.attention;
  const auto type = space.shape().kv;
  const auto page_layer_bytes = kv_layer_bytes(type, a.kv_heads, a.key_size, a.value_size);
  for (std::size_t g = first; g < last; ++g) {
    if (g == 0) {
      if (!layout.embedding_on_disk())
        o.embed(layout.matrix(0, groups[0]), s.ids, space.floats(buffer::hidden));
    } else if (g >= layout.norm_group()) {
      forward_output(o, layout, space, s, groups, g);
    } else {
      forward_layer(o, layout, space, s, layout.layer(g - 1, groups[g]),
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
