// Ids against those that independent tokenizers gave (tests/oracles/make_tokenizer_oracle.py, make_llamacpp_oracle.py).
#include "src/model/tokenizer.hpp"
#include "tests/support/skipped.hpp"
#include "tests/unit/model/vocabularies.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>

using namespace tropilla;
using tropilla::testing::read_data;
using tropilla::testing::read_text;
using tropilla::testing::recorded_vocabulary;

namespace {

std::string text_of(const nlohmann::json& line) {
  if (line.contains("text"))
    return line.at("text").get<std::string>();
  const auto hex = line.at("hex").get<std::string>();
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

void check_lines(const tokenizer& tok, const std::string& pre, bool every_byte) {
  const nlohmann::json recorded = read_data("tokenizer-lines.json");
  for (const bool special : {false, true}) {
    const auto& lines = recorded.at(special ? "special" : "lines");
    REQUIRE(lines.size() > (special ? 30 : 300));
    for (const auto& line : lines) {
      CAPTURE(line.dump(-1, ' ', true), special);
      const std::string text = text_of(line);
      const auto ids = tok.encode(text, {.special = special});
      CHECK(ids == line.at(pre).get<std::vector<token_id>>());
      if (every_byte) {
        CHECK(tok.decode(ids, special) == text);
      }
    }
  }
}

} // namespace

TEST_CASE("SmolLM's ids are those of Hugging Face's tokenizers") {
  // Its vocabulary lacks 21 bytes, which are dropped.
  check_lines(tokenizer(recorded_vocabulary("smollm", "smollm")), "smollm", false);
}

TEST_CASE("Llama 3's ids are those of tiktoken, and every byte comes back") {
  check_lines(tokenizer(recorded_vocabulary("llama3", "llama-bpe")), "llama-bpe", true);
}

TEST_CASE("GPT-2's splitting gives the ids of Hugging Face's tokenizers, and every byte comes back") {
  check_lines(tokenizer(recorded_vocabulary("llama3", "gpt-2")), "gpt-2", true);
}

TEST_CASE("where a file names no pre-tokenizer of its own, ids are those of llama.cpp") {
  nlohmann::json recorded = read_data("tokenizer-lines.json");
  const nlohmann::json differing = read_data("tokenizer-llamacpp.json");
  const auto check = [&](const std::string& pre, const std::string& like) {
    const tokenizer tok(recorded_vocabulary("llama3", pre));
    for (const std::string name : {"lines", "special"}) {
      auto& lines = recorded.at(name);
      for (auto& line : lines)
        line[pre] = line.at(like);
      for (const auto& entry : differing.at(pre + " " + name))
        lines.at(entry.at(0).get<std::size_t>())[pre] = entry.at(1);
      for (const auto& line : lines)
        if (line.contains("text")) { // llama.cpp was not asked for bytes of no text
          CAPTURE(line.dump(-1, ' ', true), pre);
          CHECK(tok.encode(text_of(line), {.special = name == "special"}) == line.at(pre).get<std::vector<token_id>>());
        }
    }
  };
  REQUIRE(differing.at("default lines").size() > 50);
  check("default", "gpt-2");
  check("smaug-bpe", "llama-bpe");
}

TEST_CASE("the whole vocabulary of a model gives the same ids", "[model]") {
  const char* path = std::getenv("TROPILLA_TEST_MODEL");
  if (path == nullptr) {
    testing::skipped("TROPILLA_TEST_MODEL does not name SmolLM2's file");
    return;
  }
  const gguf_file file = gguf_file::open(path);
  REQUIRE(file.require_text("tokenizer.ggml.pre") == "smollm");
  const tokenizer tok(file);
  check_lines(tok, "smollm", false);

  const std::string text = read_text("eval-text.txt");
  const auto expected = read_data("eval-reference.json").at("ids").get<std::vector<token_id>>();
  auto ids = tok.encode(text);
  CHECK(tok.decode(ids) == text);
  REQUIRE(ids.size() >= expected.size());
  ids.resize(expected.size());
  CHECK(ids == expected);
}
