// Hyper-parameters: what a model may say, and what contradicts its tensors.
#include "src/model/llama_config.hpp"

#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

using namespace tropilla;
using namespace tropilla::testing;

namespace {

llama_config read(const small_model& m) {
  const auto bytes = m.file();
  return llama_config::read(gguf_file::parse(bytes, bytes.size(), "test.gguf"));
}

void check_refused(const small_model& m, errc code, std::string_view words) {
  const outcome o = outcome_of([&] { (void)read(m); });
  INFO(o.message);
  CHECK(o.code == code);
  CHECK(o.message.find(words) != std::string::npos);
  CHECK(o.message.find("test.gguf") != std::string::npos);
}

small_model::put i32s(std::vector<std::int32_t> values) {
  return [values = std::move(values)](gguf_builder& b, const std::string& key) { b.put_i32s(key, values); };
}

/// Heads of 16 for keys and 24 for values where width / heads is 8.
small_model wide_heads() {
  small_model m;
  m.with("llama.attention.key_length", 16U).with("llama.attention.value_length", 24U);
  for (const std::string prefix : {"blk.0.", "blk.1."}) {
    m.at(prefix + "attn_q.weight").shape = {32, 64};
    m.at(prefix + "attn_k.weight").shape = {32, 32};
    m.at(prefix + "attn_v.weight").shape = {32, 48};
    m.at(prefix + "attn_output.weight").shape = {96, 32};
  }
  return m;
}

} // namespace

TEST_CASE("a small model's hyper-parameters are read, with the usual ones where the file is silent") {
  const llama_config c = read(small_model());
  CHECK(c.name == "small");
  CHECK(c.layers == 2);
  CHECK(c.width == 32);
  CHECK(c.ffn_width == 64);
  CHECK(c.vocabulary == 6);
  CHECK(c.context == 64);
  CHECK(c.attention.heads == 4);
  CHECK(c.attention.kv_heads == 2);
  CHECK(c.attention.key_size == 8);
  CHECK(c.attention.value_size == 8);
  CHECK(c.attention.scale == Approx(1 / std::sqrt(8.0)));
  CHECK(c.norm_epsilon == 1e-5F);
  CHECK(c.rope.theta == 10000.0);
  CHECK(c.rope.dims == 8);
  CHECK(c.rope.linear_scale == 1.0);
  CHECK(c.rope.factors.empty());
  CHECK(c.type_name == "Q4_0");
  CHECK_FALSE(c.output.has_value());
  CHECK(c.layer_sources.size() == 2);
  CHECK(c.layer_sources[1].ffn_down.name == "blk.1.ffn_down.weight");
  CHECK(c.layer_sources[1].ffn_down.rows == 32);
  CHECK(c.layer_sources[1].ffn_down.columns == 64);
  const std::uint64_t matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64);
  CHECK(c.parameters == matrices + 5 * 32 + 6 * 32);
  CHECK(c.weight_bytes == matrices / 32 * 18 + 5 * 32 * 4 + 6 * 34);
}

TEST_CASE("a separate output head is found, and an embedding then costs a step one row") {
  const llama_config tied = read(small_model());
  const llama_config c = read(small_model().with_tensor("output.weight", tensor_type::q4_0, {32, 6}));
  REQUIRE(c.output.has_value());
  CHECK(c.output->rows == 6);
  CHECK(c.output->type == tensor_type::q4_0);
  CHECK(c.weight_bytes == tied.weight_bytes - 5 * 34 + 6 * 18);
  CHECK(c.parameters == tied.parameters + 6 * 32);
}

TEST_CASE("head sizes may differ from width over heads") {
  const llama_config c = read(wide_heads().with("llama.rope.dimension_count", 12U).with("llama.attention.scale", 0.3F));
  CHECK(c.attention.key_size == 16);
  CHECK(c.attention.value_size == 24);
  CHECK(c.attention.scale == 0.3F);
  CHECK(c.rope.dims == 12);
  CHECK(c.layer_sources[0].attn_output.columns == 96);
}

TEST_CASE("per-layer lists are read when all layers agree") {
  CHECK(read(small_model().with("llama.attention.head_count", i32s({4, 4}))).attention.heads == 4);
  check_refused(small_model().with("llama.attention.head_count", i32s({4, 2})), errc::unsupported, "between layers");
  check_refused(small_model().with("llama.attention.head_count", i32s({})), errc::malformed_file, "head_count");
  check_refused(small_model().with("llama.attention.head_count", i32s({-4, -4})), errc::malformed_file, "head_count");
}

TEST_CASE("RoPE's base and linear scaling are read") {
  const llama_config c = read(small_model()
                                  .with("llama.rope.freq_base", 500000.0F)
                                  .with("llama.rope.scaling.type", "linear")
                                  .with("llama.rope.scaling.factor", 4.0F));
  CHECK(c.rope.theta == 500000.0);
  CHECK(c.rope.linear_scale == 4.0);
  CHECK(read(small_model().with("llama.rope.scale_linear", 2.0F)).rope.linear_scale == 2.0);
  const auto none = small_model().with("llama.rope.scaling.type", "none").with("llama.rope.scaling.factor", 4.0F);
  CHECK(read(none).rope.linear_scale == 1.0);
}

TEST_CASE("Llama 3.1's divisors are those of its reference code") {
  // f / apply_scaling(f) for f = 500000^(-i/64): Llama 3.2's factor of 32, heads of 64.
  const auto f32 = llama31_rope_factors(500000.0, 64, 32.0, 1.0, 4.0, 8192.0);
  REQUIRE(f32.size() == 32);
  CHECK(f32[0] == 1.0F);
  CHECK(f32[14] == 1.0F);
  CHECK(f32[15] == Approx(1.65132925).epsilon(1e-6));
  CHECK(f32[16] == Approx(3.2922621).epsilon(1e-6));
  CHECK(f32[17] == Approx(9.66672898).epsilon(1e-6));
  CHECK(f32[18] == 32.0F);
  CHECK(f32[31] == 32.0F);
  // Llama 3.1: factor 8, heads of 128.
  const auto f8 = llama31_rope_factors(500000.0, 128, 8.0, 1.0, 4.0, 8192.0);
  REQUIRE(f8.size() == 64);
  CHECK(f8[28] == 1.0F);
  CHECK(f8[29] == Approx(1.20748387).epsilon(1e-6));
  CHECK(f8[34] == Approx(5.25732659).epsilon(1e-6));
  CHECK(f8[35] == Approx(8).epsilon(1e-6));
  CHECK(f8[36] == 8.0F);
}

TEST_CASE("RoPE's divisors come from the metadata or the tensor, which wins") {
  small_model m;
  m.with("llama.rope.scaling.type", "llama3").with("llama.rope.scaling.factor", 8.0F);
  check_refused(m, errc::malformed_file, "original_context_length");
  m.with("llama.rope.scaling.original_context_length", 8192U).with("llama.rope.freq_base", 500000.0F);
  const llama_config c = read(m);
  CHECK(c.rope.factors == llama31_rope_factors(500000.0, 8, 8.0, 1.0, 4.0, 8192.0));
  CHECK(c.rope.linear_scale == 1.0);
  check_refused(small_model(m).with("llama.rope.scaling.low_freq_factor", 4.0F), errc::malformed_file, "low_freq");

  m.with_tensor("rope_freqs.weight", tensor_type::f32, {4});
  const temporary_folder folder;
  auto bytes = m.file();
  const std::vector<float> factors{1.0F, 2.5F, 8.0F, 32.0F};
  const auto file = gguf_file::parse(bytes, bytes.size(), "x");
  std::memcpy(bytes.data() + file.find_tensor("rope_freqs.weight")->offset, factors.data(), 16);
  CHECK(llama_config::read(gguf_file::open(folder.write("m.gguf", bytes))).rope.factors == factors);
  for (const float bad : {0.0F, -1.0F, std::nanf(""), INFINITY}) {
    std::memcpy(bytes.data() + file.find_tensor("rope_freqs.weight")->offset, &bad, sizeof(bad));
    const auto path = folder.write("bad.gguf", bytes);
    CHECK(outcome_of([&] { (void)llama_config::read(gguf_file::open(path)); }).code == errc::malformed_file);
  }
  // The header came from somewhere else than a file.
  CHECK(outcome_of([&] { (void)llama_config::read(file); }).code == errc::io_error);
}

TEST_CASE("models of other architectures and relatives of Llama are refused by name") {
  check_refused(small_model().with("general.architecture", "qwen2"), errc::unsupported, "\"qwen2\"");
  check_refused(small_model().with("llama.expert_count", 8U), errc::unsupported, "8 experts");
  check_refused(small_model().with("llama.logit_scale", 2.0F), errc::unsupported, "logit_scale");
  check_refused(small_model().with("llama.attention.sliding_window", 4096U), errc::unsupported, "sliding_window");
  check_refused(small_model().with("llama.rope.scaling.type", "yarn"), errc::unsupported, "yarn");
  check_refused(small_model().with("llama.rope.scaling.attn_factor", 1.5F), errc::unsupported, "attn_factor");
  check_refused(small_model().with_tensor("blk.0.attn_q.bias", tensor_type::f32, {32}), errc::unsupported,
                "blk.0.attn_q.bias");
  check_refused(small_model().with_tensor("blk.00.attn_q.weight", tensor_type::f32, {32}), errc::unsupported, "blk.00");
  check_refused(small_model().with_tensor("blk.2.attn_q.weight", tensor_type::q4_0, {32, 32}), errc::malformed_file,
                "beyond the 2");
  check_refused(small_model().with_tensor("blk.99999999999999999999.attn_q.weight", tensor_type::f32, {32}),
                errc::unsupported, "blk.9999");
}

TEST_CASE("keys that a model can't do without are named when they are missing") {
  for (const std::string key :
       {"general.architecture", "llama.block_count", "llama.context_length", "llama.embedding_length",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"})
    check_refused(small_model().without(key), errc::malformed_file, key);
}

TEST_CASE("sizes of zero, absurd sizes and heads that don't divide are refused") {
  for (const std::string key :
       {"llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length",
        "llama.attention.value_length", "llama.rope.dimension_count", "llama.vocab_size"}) {
    check_refused(small_model().with(key, 0U), errc::malformed_file, key);
    check_refused(small_model().with(key, 0xFFFFFFFFU), errc::malformed_file, key);
    const auto enormous = [](gguf_builder& b, const std::string& k) { b.put_u64(k, ~std::uint64_t{0}); };
    check_refused(small_model().with(key, enormous), errc::malformed_file, key);
    const auto negative = [](gguf_builder& b, const std::string& k) { b.put_i32(k, -1); };
    check_refused(small_model().with(key, negative), errc::malformed_file, key);
    check_refused(small_model().with(key, "four"), errc::malformed_file, key);
  }
  check_refused(small_model().with("llama.block_count", 3U), errc::malformed_file, "too few");
  check_refused(small_model().with("llama.attention.head_count", 3U), errc::malformed_file, "no multiple");
  check_refused(small_model().with("llama.attention.head_count_kv", 3U), errc::malformed_file, "no multiple");
  check_refused(small_model().with("llama.attention.head_count_kv", 8U), errc::malformed_file, "no multiple");
  check_refused(small_model().with("llama.attention.head_count", 64U).with("llama.attention.key_length", 8U),
                errc::malformed_file, "more than llama.embedding_length");
  check_refused(small_model().with("llama.rope.dimension_count", 10U), errc::malformed_file, "at most");
  check_refused(small_model().with("llama.rope.dimension_count", 5U), errc::malformed_file, "even");
}

TEST_CASE("constants that are no numbers are refused") {
  for (const float bad : {0.0F, -1.0F, std::nanf(""), INFINITY}) {
    check_refused(small_model().with("llama.rope.freq_base", bad), errc::malformed_file, "freq_base");
    check_refused(small_model().with("llama.attention.layer_norm_rms_epsilon", bad), errc::malformed_file, "epsilon");
    if (bad != 0.0F) {
      check_refused(small_model().with("llama.attention.scale", bad), errc::malformed_file, "attention.scale");
      check_refused(small_model().with("llama.rope.scaling.factor", bad), errc::malformed_file, "scaling.factor");
    }
  }
  check_refused(small_model().with("llama.attention.layer_norm_rms_epsilon", 1.0F), errc::malformed_file, "epsilon");
}

TEST_CASE("every tensor that is missing is named") {
  for (const auto& t : small_model().tensors) {
    small_model m;
    m.without_tensor(t.name);
    // One tensor fewer must be too few for nothing but itself.
    m.with_tensor("rope_freqs.weight", tensor_type::f32, {4});
    check_refused(m, errc::malformed_file, t.name + "\" is missing");
  }
}

TEST_CASE("every tensor whose shape or type contradicts the hyper-parameters is named") {
  for (const auto& t : small_model().tensors) {
    const auto spoil = [&](const std::function<void(small_model::tensor&)>& change) {
      small_model m;
      change(m.at(t.name));
      check_refused(m, errc::malformed_file, t.name);
    };
    spoil([](auto& x) { x.shape[0] *= 2; });
    spoil([](auto& x) { x.shape.push_back(2); });
    if (t.shape.size() == 1)
      spoil([](auto& x) { x.type = static_cast<std::uint32_t>(tensor_type::q8_0); });
    else
      spoil([](auto& x) { x.shape[1] += 1; });
    if (t.shape.size() == 2 && t.shape[1] % 2 == 0 && t.name != "token_embd.weight")
      spoil([](auto& x) { x.shape = {x.shape[0], 2, x.shape[1] / 2}; });
  }
  small_model flat;
  flat.at("blk.0.attn_q.weight").shape = {32, 32, 1, 1};
  flat.at("blk.0.attn_norm.weight").shape = {32, 1};
  CHECK(read(flat).width == 32);
  check_refused(small_model().with_tensor("output.weight", tensor_type::q4_0, {32, 5}), errc::malformed_file,
                "output.weight");
  check_refused(small_model().with_tensor("rope_freqs.weight", tensor_type::f32, {5}), errc::malformed_file,
                "rope_freqs.weight");
  check_refused(small_model().with_tensor("rope_freqs.weight", tensor_type::f16, {4}), errc::malformed_file,
                "rope_freqs.weight");
}

TEST_CASE("a stale vocab_size is noticed, and the embedding's rows count") {
  const llama_config c = read(small_model().with("llama.vocab_size", 7U));
  CHECK(c.vocabulary == 6);
  REQUIRE(c.notices.size() == 1);
  CHECK_THAT(c.notices[0], Catch::Contains("llama.vocab_size is 7") && Catch::Contains("6 rows"));
  CHECK(read(small_model()).notices.empty());
}

TEST_CASE("a fused matrix of query, key and value is read as the three") {
  small_model m;
  const auto replace = [&](const std::string& prefix, std::uint64_t rows) {
    for (const char* name : {"attn_q.weight", "attn_k.weight", "attn_v.weight"})
      m.without_tensor(prefix + name);
    m.with_tensor(prefix + "attn_qkv.weight", tensor_type::q4_0, {32, rows});
  };
  replace("blk.1.", 64);
  const llama_config c = read(m);
  const auto& l = c.layer_sources[1];
  const gguf_file file = gguf_file::parse(m.file(), m.file().size(), "test.gguf");
  const gguf_tensor& fused = *file.find_tensor("blk.1.attn_qkv.weight");
  std::uint64_t at = fused.offset;
  for (const auto& [part, rows] : {std::pair{&l.attn_q, 32U}, std::pair{&l.attn_k, 16U}, std::pair{&l.attn_v, 16U}}) {
    CHECK(part->name == fused.name);
    CHECK(part->rows == rows);
    CHECK(part->columns == 32);
    CHECK(part->offset == at);
    CHECK(part->bytes == rows * row_bytes(tensor_type::q4_0, 32));
    at += part->bytes;
  }
  CHECK(at == fused.offset + fused.bytes);
  CHECK(c.parameters == read(small_model()).parameters);
  check_refused(small_model().with_tensor("blk.0.attn_qkv.weight", tensor_type::q4_0, {32, 64}), errc::malformed_file,
                "\"blk.0.attn_qkv.weight\" has the rows of \"blk.0.attn_q.weight\"");
  replace("blk.0.", 65);
  check_refused(m, errc::malformed_file, "blk.0.attn_qkv.weight");
}

TEST_CASE("files that are no models are refused as what they are") {
  check_refused(small_model().with("general.type", "adapter").with("adapter.type", "lora"), errc::unsupported,
                "is an adapter (\"lora\")");
  check_refused(small_model().with("adapter.type", "lora"), errc::unsupported, "is an adapter");
  check_refused(small_model().with("general.type", "adapter"), errc::unsupported, "is an adapter");
  check_refused(small_model().with("general.type", "imatrix"), errc::unsupported, "general.type is \"imatrix\"");
  CHECK(read(small_model().with("general.type", "model")).layers == 2);
  small_model bare;
  bare.tensors.clear();
  check_refused(bare, errc::unsupported, "no tensors");
}

TEST_CASE("a vocabulary of another size than the embedding is refused") {
  const auto five = [](gguf_builder& b, const std::string& key) { b.put_texts(key, std::vector<std::string>(5, "x")); };
  check_refused(small_model().with("tokenizer.ggml.tokens", five), errc::malformed_file, "5 tokens");
  small_model bare;
  bare.without("tokenizer.ggml.tokens");
  CHECK(read(bare).vocabulary == 6);
}
