#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>

namespace tropilla::testing {

namespace {

constexpr std::uint32_t number_of(tensor_type type) {
  return static_cast<std::uint32_t>(type);
}

} // namespace

small_model::small_model() {
  with("general.architecture", "llama").with("general.name", "small");
  with("llama.block_count", 2U).with("llama.context_length", 64U).with("llama.embedding_length", 32U);
  with("llama.feed_forward_length", 64U).with("llama.attention.head_count", 4U);
  with("llama.attention.head_count_kv", 2U).with("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  with("tokenizer.ggml.tokens", [](gguf_builder& b, const std::string& key) {
    b.put_texts(key, std::vector<std::string>{"a", "b", "c", "ab", "bc", "abc"});
  });
  with_tensor("token_embd.weight", tensor_type::q8_0, {32, 6});
  for (const std::string prefix : {"blk.0.", "blk.1."}) {
    with_tensor(prefix + "attn_norm.weight", tensor_type::f32, {32});
    with_tensor(prefix + "attn_q.weight", tensor_type::q4_0, {32, 32});
    with_tensor(prefix + "attn_k.weight", tensor_type::q4_0, {32, 16});
    with_tensor(prefix + "attn_v.weight", tensor_type::q4_0, {32, 16});
    with_tensor(prefix + "attn_output.weight", tensor_type::q4_0, {32, 32});
    with_tensor(prefix + "ffn_norm.weight", tensor_type::f32, {32});
    with_tensor(prefix + "ffn_gate.weight", tensor_type::q4_0, {32, 64});
    with_tensor(prefix + "ffn_up.weight", tensor_type::q4_0, {32, 64});
    with_tensor(prefix + "ffn_down.weight", tensor_type::q4_0, {64, 32});
  }
  with_tensor("output_norm.weight", tensor_type::f32, {32});
}

small_model& small_model::with(const std::string& key, std::uint32_t value) {
  return with(key, [value](gguf_builder& b, const std::string& k) { b.put_u32(k, value); });
}

small_model& small_model::with(const std::string& key, float value) {
  return with(key, [value](gguf_builder& b, const std::string& k) { b.put_f32(k, value); });
}

small_model& small_model::with(const std::string& key, const char* value) {
  return with(key, [text = std::string(value)](gguf_builder& b, const std::string& k) { b.put_text(k, text); });
}

small_model& small_model::with(const std::string& key, put value) {
  metadata[key] = std::move(value);
  return *this;
}

small_model& small_model::without(const std::string& key) {
  REQUIRE(metadata.erase(key) == 1);
  return *this;
}

small_model& small_model::with_tensor(const std::string& name, tensor_type type, std::vector<std::uint64_t> shape) {
  tensors.push_back({name, number_of(type), std::move(shape)});
  return *this;
}

small_model& small_model::without_tensor(const std::string& name) {
  REQUIRE(std::erase_if(tensors, [&](const tensor& t) { return t.name == name; }) == 1);
  return *this;
}

small_model::tensor& small_model::at(const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const tensor& t) { return t.name == name; });
  REQUIRE(found != tensors.end());
  return *found;
}

gguf_builder small_model::build() const {
  gguf_builder builder(version, alignment);
  for (const auto& [key, value] : metadata)
    value(builder, key);
  for (const tensor& t : tensors) {
    const auto type = tensor_type_from_number(t.type);
    const bool whole_blocks = type && !t.shape.empty() && t.shape[0] % info(*type).block_values == 0;
    if (whole_blocks && !t.offset)
      builder.add_tensor(t.name, *type, t.shape);
    else
      builder.add_raw_tensor(t.name, t.type, t.shape, t.offset.value_or(0));
  }
  return builder;
}

std::vector<std::byte> small_model::file(std::byte fill) const {
  const gguf_builder builder = build();
  std::vector<std::byte> bytes = builder.header();
  bytes.resize(bytes.size() + builder.data_bytes(), fill);
  return bytes;
}

temporary_folder::temporary_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "tropilla-XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}

temporary_folder::~temporary_folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path temporary_folder::write(std::string_view name, std::span<const std::byte> bytes) const {
  std::filesystem::path path = path_ / name;
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  REQUIRE(out.good());
  return path;
}

std::size_t temporary_folder::entries() const {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
}

outcome outcome_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const error& e) {
    return {e.code(), e.what()};
  }
  return {};
}

} // namespace tropilla::testing
