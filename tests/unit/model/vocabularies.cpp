// Metadata put together by hand: no GGUF reader takes part in these tests.
#include "tests/unit/model/vocabularies.hpp"

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace tropilla::testing {

std::string read_text(const std::string& name) {
  std::ifstream in(std::string(TROPILLA_TEST_DATA) + "/" + name, std::ios::binary);
  if (!in)
    throw std::runtime_error("cannot read tests/data/" + name);
  return {std::istreambuf_iterator<char>(in), {}};
}

nlohmann::json read_data(const std::string& name) {
  return nlohmann::json::parse(read_text(name));
}

namespace {

gguf_file make_file(const std::string& pre, std::vector<std::string> tokens, std::vector<std::int64_t> types,
                    std::vector<std::string> merges) {
  gguf_file file;
  file.metadata["tokenizer.ggml.model"] = std::string("gpt2");
  file.metadata["tokenizer.ggml.pre"] = pre;
  file.metadata["tokenizer.ggml.tokens"] = gguf_array{std::move(tokens)};
  file.metadata["tokenizer.ggml.token_type"] = gguf_array{std::move(types)};
  file.metadata["tokenizer.ggml.merges"] = gguf_array{std::move(merges)};
  return file;
}

} // namespace

gguf_file recorded_vocabulary(const std::string& name, const std::string& pre) {
  const nlohmann::json data = read_data("tokenizer-vocabulary-" + name + ".json");
  const auto size = data.at("size").get<std::size_t>();
  std::vector<std::string> tokens(size);
  std::vector<std::int64_t> types(size, 5);
  for (const auto& [list, type] : {std::pair{"tokens", 1}, std::pair{"special", 3}})
    for (const auto& entry : data.at(list)) {
      const auto id = entry.at(0).get<std::size_t>();
      tokens.at(id) = entry.at(1).get<std::string>();
      types.at(id) = type;
    }
  gguf_file file =
      make_file(pre, std::move(tokens), std::move(types), data.at("merges").get<std::vector<std::string>>());
  file.metadata["tokenizer.ggml.bos_token_id"] = data.at("bos").get<std::uint64_t>();
  file.metadata["tokenizer.ggml.eos_token_id"] = data.at("eos").get<std::uint64_t>();
  return file;
}

std::string spell(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    const unsigned byte = static_cast<unsigned char>(c);
    unsigned code = byte;
    if (byte <= 0x20)
      code = 0x100 + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
      code = 0x121 + byte - 0x7F;
    else if (byte == 0xAD)
      code = 0x143;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return text;
}

small_vocabulary small_vocabulary::make() {
  small_vocabulary v;
  for (int byte = 0; byte < 256; ++byte)
    v.tokens.push_back(spell(std::string(1, static_cast<char>(byte))));
  for (const char* text : {"ab", "abc", " a"})
    v.tokens.push_back(spell(text));
  v.merges = {"a b", "ab c", spell(" ") + " a"};
  v.types.assign(v.tokens.size(), 1);
  for (const char* text : {"<|im_start|>", "<|im_end|>"}) {
    v.tokens.emplace_back(text);
    v.types.push_back(3);
  }
  v.tokens.emplace_back("<added>");
  v.types.push_back(4);
  return v;
}

gguf_file small_vocabulary::file(const std::string& pre) const {
  return make_file(pre, tokens, types, merges);
}

} // namespace tropilla::testing
