// Groups tensors, assigns their offsets, and sizes the buffers of a forward pass.
#include "src/model/llama_layout.hpp"

#include "memory/rounding.hpp"
#include "src/model/rope.hpp"

#include <algorithm>
#include <numeric>

namespace tropilla {
namespace {

constexpr std::size_t tensor_alignment = 64;

class group_builder {
public:
  explicit group_builder(std::string name, std::size_t section = 0, std::size_t section_offset = 0) {
    group_.name = std::move(name);
    group_.section = section;
    group_.section_offset = section_offset;
  }

  group_builder& vector(const weight_source& source) {
    group_tensor t{source, {}, group_.bytes, source.columns * sizeof(float)};
    return add(std::move(t));
  }

  group_builder& matrix(const weight_source& source) {
    group_tensor t{source, make_packed_layout(source.type, source.rows, source.columns), group_.bytes, 0};
    t.bytes = t.layout.bytes();
    return add(std::move(t));
  }

  [[nodiscard]] weight_group_layout build() { return std::move(group_); }

private:
  group_builder& add(group_tensor t) {
    group_.bytes += round_up(t.bytes, tensor_alignment);
    group_.file_bytes += t.source.bytes;
    group_.tensors.push_back(std::move(t));
    return *this;
  }

  weight_group_layout group_;
};

const float* vector_at(const weight_group_layout& group, std::size_t tensor, const std::byte* base) {
  return reinterpret_cast<const float*>(base + group.tensors[tensor].offset);
}

packed_matrix matrix_at(const weight_group_layout& group, std::size_t tensor, const std::byte* base) {
  const auto& t = group.tensors[tensor];
  return {t.layout, base + t.offset};
}

/// The fewest packed panels that are a multiple of `group_alignment` bytes.
std::size_t panels_per_unit(const packed_layout& head) {
  return group_alignment / std::gcd(head.panel_bytes, group_alignment);
}

/// Packed panels per tile: as even as may be, none larger than a layer unless a tile can't be smaller, and all but
/// the last a multiple of `group_alignment` bytes.
std::size_t panels_per_tile(const packed_layout& head, std::size_t max_bytes) {
  const std::size_t unit = panels_per_unit(head);
  const std::size_t max_units = std::max<std::size_t>(1, max_bytes / (head.panel_bytes * unit));
  const std::size_t all = std::max<std::size_t>(1, divide_up(head.panels(), unit));
  const std::size_t tiles = divide_up(all, max_units);
  return divide_up(all, tiles) * unit;
}

/// Adds groups and the sections that they are ranges of.
struct layout_builder {
  layout_builder(llama_config c, layer_range range, std::optional<tensor_share> share) {
    out.config = std::move(c);
    out.range = {range.first, std::min(range.last, out.config.layers)};
    out.share = share ? std::move(*share) : tensor_share::whole(out.config);
    out.attention = attention_of(out.config, out.share);
  }

  /// Adds a group that is a section of its own.
  void add_section(group_builder&& b, std::size_t unit_bytes = 0) {
    auto group = b.build();
    group.section = out.sections.size();
    out.sections.push_back({group.name, group.bytes, unit_bytes});
    out.groups.push_back(std::move(group));
  }

  void add_embedding(weight_form form) {
    if (!out.has_input())
      return out.groups.push_back(group_builder("embedding").build());
    if (form == weight_form::whole)
      return add_section(std::move(group_builder("embedding").matrix(embedding())),
                         head_is_embedding() ? unit_bytes() : 0);
    if (head_is_embedding()) // its section all the same: the head's tiles are ranges of it
      out.sections.push_back({"embedding", packed_bytes(embedding()), unit_bytes()});
    out.groups.push_back(group_builder("embedding").build());
  }

  void add_layers() {
    for (std::size_t i = 0; i < out.config.layers; ++i) {
      if (i < out.range.first || i >= out.range.last) {
        out.groups.push_back(group_builder("layer " + std::to_string(i)).build());
        continue;
      }
      const auto& l = out.config.layer_sources[i];
      const auto rows = [](const weight_source& m, share_range range, std::size_t each = 1) {
        return rows_of(m, {range.first * each, range.count * each});
      };
      const auto& a = out.config.attention;
      const auto heads = out.share.of(out.share.kv_heads), width = out.share.of(out.share.width),
                 ffn = out.share.of(out.share.ffn);
      group_builder b("layer " + std::to_string(i));
      b.vector(l.attn_norm).matrix(rows(l.attn_q, heads, a.heads / a.kv_heads * a.key_size));
      b.matrix(rows(l.attn_k, heads, a.key_size)).matrix(rows(l.attn_v, heads, a.value_size));
      b.matrix(rows(l.attn_output, width));
      b.vector(l.ffn_norm).matrix(rows(l.ffn_gate, ffn)).matrix(rows(l.ffn_up, ffn)).matrix(rows(l.ffn_down, width));
      add_section(std::move(b));
    }
  }

  /// Whether one copy serves as head and embedding.
  [[nodiscard]] bool head_is_embedding() const { return !out.config.output && out.has_input() && out.has_output(); }
  [[nodiscard]] weight_source head() const {
    return rows_of(out.config.output ? *out.config.output : out.config.token_embedding,
                   out.share.of(out.share.vocabulary));
  }
  [[nodiscard]] weight_source embedding() const {
    return rows_of(out.config.token_embedding, out.share.of(out.share.vocabulary));
  }

  /// The unit of the head's tiles: whatever their size, they are multiples of it.
  [[nodiscard]] std::size_t unit_bytes() const {
    const auto matrix = head();
    const auto layout = make_packed_layout(matrix.type, matrix.rows, matrix.columns);
    return panels_per_unit(layout) * layout.panel_bytes;
  }

  void add_output(weight_form form, std::size_t max_tile_bytes) {
    if (!out.has_output())
      return out.groups.push_back(group_builder("output norm").build());
    add_section(std::move(group_builder("output norm").vector(out.config.output_norm)));
    if (form == weight_form::tiled)
      return add_tiles(max_tile_bytes);
    if (!head_is_embedding())
      add_section(std::move(group_builder("head").matrix(head())), unit_bytes());
  }

  void add_tiles(std::size_t max_bytes) {
    const auto matrix = head();
    const auto layout = make_packed_layout(matrix.type, matrix.rows, matrix.columns);
    std::size_t section = 0;
    if (!head_is_embedding()) {
      section = out.sections.size();
      out.sections.push_back({"head", packed_bytes(matrix), unit_bytes()});
    }
    if (max_bytes == 0)
      for (const auto& g : out.groups)
        max_bytes = std::max(max_bytes, g.bytes);
    out.tile_rows = panels_per_tile(layout, max_bytes) * panel_rows;
    for (std::size_t first = 0, i = 0; first < matrix.rows; first += out.tile_rows, ++i) {
      group_builder b("head " + std::to_string(i), section, first / panel_rows * layout.panel_bytes);
      out.groups.push_back(b.matrix(rows_of(matrix, {first, std::min(out.tile_rows, matrix.rows - first)})).build());
    }
  }

  /// Packed bytes of a matrix that is alone in its group.
  static std::size_t packed_bytes(const weight_source& matrix) {
    return group_builder("").matrix(matrix).build().bytes;
  }

  llama_layout out;
};

bool wants_full(tensor_type type) {
  return type == tensor_type::f32 || type == tensor_type::f16 || type == tensor_type::bf16;
}

activation_kind kind_for(bool full, bool quantised) {
  if (full)
    return quantised ? activation_kind::both : activation_kind::full;
  return activation_kind::quantised;
}

} // namespace

llama_layout llama_layout::make(llama_config config, weight_form form, std::size_t max_tile_bytes, layer_range range,
                                std::optional<tensor_share> share) {
  layout_builder b(std::move(config), range, std::move(share));
  b.add_embedding(form);
  b.add_layers();
  b.add_output(form, max_tile_bytes);
  return std::move(b.out);
}

packed_matrix llama_layout::matrix(std::size_t group, const std::byte* memory) const {
  return matrix_at(groups[group], 0, memory);
}

layer_weights llama_layout::layer(std::size_t index, const std::byte* base) const {
  const auto& g = groups[index + 1];
  return {vector_at(g, 0, base), matrix_at(g, 1, base), matrix_at(g, 2, base),
          matrix_at(g, 3, base), matrix_at(g, 4, base), vector_at(g, 5, base),
          matrix_at(g, 6, base), matrix_at(g, 7, base), matrix_at(g, 8, base)};
}

const float* llama_layout::output_norm(const std::byte* group) const {
  return vector_at(groups[norm_group()], 0, group);
}

std::size_t llama_layout::file_bytes() const {
  std::size_t sum = 0;
  for (const auto& g : groups)
    sum += g.file_bytes;
  return sum;
}

std::size_t llama_layout::decode_bytes() const {
  std::size_t sum = first_head_group() == groups.size() && has_output() ? groups.front().bytes : 0; // it is the head
  for (std::size_t g = 1; g < groups.size(); ++g)
    sum += groups[g].bytes;
  return sum;
}

activation_kinds_of_model activation_kinds(const llama_layout& layout) {
  const auto& c = layout.config;
  const auto kind_of = [&c](auto... members) {
    bool full = false, quantised = false;
    for (const auto& l : c.layer_sources)
      for (const auto type : {(l.*members).type...})
        (wants_full(type) ? full : quantised) = true;
    return kind_for(full, quantised);
  };
  using layer = llama_layer_sources;
  const auto head_full = wants_full(c.output ? c.output->type : c.token_embedding.type);
  return {kind_of(&layer::attn_q, &layer::attn_k, &layer::attn_v), kind_of(&layer::attn_output),
          kind_of(&layer::ffn_gate, &layer::ffn_up), kind_of(&layer::ffn_down),
          head_full ? activation_kind::full : activation_kind::residual_int8};
}

std::size_t workspace_bytes(const llama_layout& layout, const run_shape& shape, const device& dev) {
  const auto& c = layout.config;
  const std::size_t widest = std::max({c.width, c.ffn_width, c.attention.heads * c.attention.value_size});
  return rope_table_bytes(c.rope, shape.context) +
         dev.scratch_bytes(shape.max_batch_tokens, widest, shape.sequences * kv_pages_for(shape.context));
}

std::vector<buffer_lifetime> forward_buffers(const llama_layout& layout, const run_shape& shape, const device& dev) {
  const auto& c = layout.config;
  const auto& a = layout.attention; // of the share
  const auto& all = c.attention;
  const auto rows = shape.max_batch_tokens;
  const auto logit_rows = layout.has_output() ? shape.logit_rows : 0;
  auto floats = [](std::size_t r, std::size_t width) { return r * width * sizeof(float); };
  const auto part = [&](activation_kind kind, std::size_t width) {
    return layout.share.is_whole() ? 0 : dev.activation_bytes(kind, rows, width);
  };
  const auto kinds = activation_kinds(layout);
  const std::size_t qkv = (a.heads + a.kv_heads) * a.key_size + a.kv_heads * a.value_size;

  // Steps of the schedule: 0 embed, 1 norm, 2 qkv, 3 rope, 4 attention, 5 quantise, 6 output product, 7 norm,
  // 8 gate and up, 9 down, 10 gather rows, 11 norm, 12 head, 13 sampling. Layers repeat 1 to 9. Other ranks read what
  // is exchanged at the end of 5, 6, 8, 9 and 12 until this one's next exchange: the last layer's rows until 12.
  const std::size_t hidden_end = layout.share.is_whole() ? 10 : 12;
  return {
      {"hidden", floats(rows, c.width), 0, hidden_end},
      {"attention input", dev.activation_bytes(kinds.attn_input, rows, c.width), 1, 2},
      {"queries, keys, values", floats(rows, qkv), 2, 4},
      {"attention heads", floats(rows, a.heads * a.value_size), 4, 5},
      {"part of it", part(kinds.o_proj_input, a.heads * a.value_size), 5, 6},
      {"output projection input", dev.activation_bytes(kinds.o_proj_input, rows, all.heads * all.value_size), 5, 6},
      {"ffn input", dev.activation_bytes(kinds.ffn_input, rows, c.width), 7, 8},
      {"part of ffn result", part(kinds.ffn_result, layout.share.of(layout.share.ffn).count), 8, 9},
      {"ffn result", dev.activation_bytes(kinds.ffn_result, rows, c.ffn_width), 8, 9},
      {"head rows", floats(logit_rows, c.width), 10, 11},
      {"head input", dev.activation_bytes(kinds.head_input, logit_rows, c.width), 11, 12},
      {"logits", floats(logit_rows, layout.logits_width()), 12, 13},
  };
}

std::size_t kv_page_bytes(const llama_layout& layout, kv_type type) {
  const auto& a = layout.attention;
  return (layout.range.last - layout.range.first) * kv_layer_bytes(type, a.kv_heads, a.key_size, a.value_size);
}

std::size_t kv_page_stride(const llama_layout& layout, kv_type type) {
  return to_group_alignment(kv_page_bytes(layout, type));
}

plan_input make_plan_input(const llama_layout& layout, const run_shape& shape, const device& dev,
                           std::size_t staging_bytes) {
  plan_input in;
  in.device = dev.name();
  in.alignment = group_alignment;
  for (std::size_t i = 0; i < layout.groups.size(); ++i)
    in.groups.push_back({layout.groups[i].name, layout.groups[i].bytes,
                         layout.groups[i].bytes > 0 && i > 0 && i != layout.norm_group() &&
                             (i < layout.norm_group() || layout.tile_rows > 0)});
  in.kv_page_bytes = kv_page_bytes(layout, shape.kv);
  in.kv_page_tokens = kv_page_tokens;
  in.kv_tokens = std::max(shape.context, shape.kv_tokens);
  in.activations = forward_buffers(layout, shape, dev);
  in.workspace_bytes = workspace_bytes(layout, shape, dev);
  in.staging_bytes = staging_bytes;
  return in;
}

} // namespace tropilla
