// Hashes a model by its hyper-parameters and a few bytes of each tensor.
#include "src/io/model_fingerprint.hpp"

#include "src/files/whole_file.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace tropilla {
namespace {

constexpr std::size_t sample_bytes = 256;

void add_number(packed_key_hash& hash, double number) {
  hash.add(std::bit_cast<std::uint64_t>(number));
}

void add_tensor(packed_key_hash& hash, const weight_source& tensor, std::span<const whole_file> files) {
  hash.add(tensor.name);
  for (const std::uint64_t fact : {static_cast<std::uint64_t>(tensor.type), static_cast<std::uint64_t>(tensor.rows),
                                   static_cast<std::uint64_t>(tensor.columns), tensor.bytes})
    hash.add(fact);
  std::array<std::byte, sample_bytes> sample{};
  // Not the first bytes alone: untrained rows of an embedding are the same in every model.
  for (const std::uint64_t at : {tensor.bytes / 3, tensor.bytes / 3 * 2}) {
    const auto bytes = std::span(sample).first(std::min<std::uint64_t>(sample_bytes, tensor.bytes - at));
    files[tensor.file].read(tensor.offset + at, bytes);
    hash.add(bytes);
  }
}

} // namespace

packed_key fingerprint_of(const llama_config& model, std::span<const std::filesystem::path> files) {
  std::vector<whole_file> open;
  for (const auto& path : files)
    open.push_back(whole_file::to_read(path));
  packed_key_hash hash;
  for (const std::size_t number :
       {model.layers, model.width, model.ffn_width, model.vocabulary, model.attention.heads, model.attention.kv_heads,
        model.attention.key_size, model.attention.value_size, model.rope.dims})
    hash.add(static_cast<std::uint64_t>(number));
  for (const double number : {static_cast<double>(model.attention.scale), static_cast<double>(model.norm_epsilon),
                              model.rope.theta, model.rope.linear_scale})
    add_number(hash, number);
  hash.add(std::as_bytes(std::span(model.rope.factors)));
  add_tensor(hash, model.token_embedding, open);
  for (const auto& layer : model.layer_sources)
    for (const auto* tensor : {&layer.attn_norm, &layer.attn_q, &layer.attn_k, &layer.attn_v, &layer.attn_output,
                               &layer.ffn_norm, &layer.ffn_gate, &layer.ffn_up, &layer.ffn_down})
      add_tensor(hash, *tensor, open);
  return hash.key();
}

} // namespace tropilla
