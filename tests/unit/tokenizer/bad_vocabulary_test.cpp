// Vocabularies that contradict themselves: one sentence each, nothing worse.
#include "src/model/tokenizer.hpp"
#include "tests/unit/tokenizer/vocabularies.hpp"

#include <catch2/catch.hpp>
#include <functional>

using namespace tropilla;
using tropilla::testing::small_vocabulary;

namespace {

void check_refused(const gguf_file& file, errc code, const std::string& part) {
  try {
    const tokenizer tok(file);
    FAIL("accepted; expected: " << part);
  } catch (const error& e) {
    CHECK(e.code() == code);
    CHECK_THAT(e.what(), Catch::Contains(part));
  }
}

void check_spoilt(const std::function<void(small_vocabulary&)>& spoil, const std::string& part) {
  small_vocabulary v = small_vocabulary::make();
  spoil(v);
  for (const std::string pre : {"gpt-2", "smollm", "llama-bpe"})
    check_refused(v.file(pre), errc::malformed_file, part);
}

template <class T>
void check_replaced(const std::string& key, T value, errc code, const std::string& part) {
  gguf_file file = small_vocabulary::make().file();
  file.metadata["tokenizer.ggml." + key] = std::move(value);
  check_refused(file, code, part);
}

} // namespace

TEST_CASE("a vocabulary without one of its parts is refused") {
  for (const std::string key : {"tokens", "token_type", "merges", "model"}) {
    gguf_file file = small_vocabulary::make().file();
    file.metadata.erase("tokenizer.ggml." + key);
    check_refused(file, errc::malformed_file, "tokenizer.ggml." + key);
  }
}

TEST_CASE("arrays of the wrong kind, empty or of another length are refused") {
  check_replaced("tokens", gguf_array{std::vector<std::string>{}}, errc::malformed_file, "not empty");
  check_replaced("tokens", gguf_array{std::vector<std::int64_t>{1, 2}}, errc::malformed_file, "array of strings");
  check_replaced("tokens", gguf_array{}, errc::malformed_file, "array of strings");
  check_replaced("merges", gguf_array{std::vector<std::string>{}}, errc::malformed_file, "not empty");
  check_replaced("merges", gguf_array{std::vector<double>{1.0}}, errc::malformed_file, "array of strings");
  check_replaced("token_type", gguf_array{}, errc::malformed_file, "0 entries for 262 tokens");
  check_replaced("token_type", gguf_array{std::vector<std::int64_t>(261, 1)}, errc::malformed_file,
                 "261 entries for 262");
  check_replaced("token_type", gguf_array{std::vector<std::string>(262, "1")}, errc::malformed_file, "whole numbers");
  check_replaced("token_type", gguf_array{std::vector<double>(262, 1.0)}, errc::malformed_file, "whole numbers");
}

TEST_CASE("keys of the wrong kind are refused") {
  check_replaced("tokens", std::string("a"), errc::malformed_file, "tokenizer.ggml.tokens");
  check_replaced("model", std::uint64_t{1}, errc::malformed_file, "tokenizer.ggml.model");
  check_replaced("pre", std::uint64_t{1}, errc::malformed_file, "tokenizer.ggml.pre");
  check_replaced("bos_token_id", std::string("1"), errc::malformed_file, "tokenizer.ggml.bos_token_id");
  check_replaced("add_bos_token", std::string("yes"), errc::malformed_file, "tokenizer.ggml.add_bos_token");
}

TEST_CASE("unsigned types are types, too large ones are not") {
  gguf_file file = small_vocabulary::make().file();
  std::vector<std::uint64_t> types(262, 1);
  file.metadata["tokenizer.ggml.token_type"] = gguf_array{types};
  CHECK(tokenizer(file).size() == 262);
  types[3] = UINT64_MAX;
  file.metadata["tokenizer.ggml.token_type"] = gguf_array{types};
  check_refused(file, errc::malformed_file, "[3]");
}

TEST_CASE("a tokenizer of another kind is refused by name") {
  check_replaced("model", std::string("llama"), errc::unsupported, "\"llama\"");
  check_replaced("pre", std::string("deepseek-coder"), errc::unsupported, "\"deepseek-coder\"");
  gguf_file file = small_vocabulary::make().file();
  file.metadata.erase("tokenizer.ggml.pre");
  check_refused(file, errc::unsupported, "tokenizer.ggml.pre is missing");
}

TEST_CASE("types out of range are refused") {
  check_spoilt([](auto& v) { v.types[7] = 7; }, "token_type[7] is 7");
  check_spoilt([](auto& v) { v.types[7] = -1; }, "token_type[7] is -1");
  check_spoilt([](auto& v) { v.types[7] = INT64_MIN; }, "token_type[7] is -9223372036854775808");
}

TEST_CASE("two tokens with one text are refused with both ids") {
  check_spoilt([](auto& v) { v.tokens[70] = "A"; }, "tokens 65 and 70 are both \"A\"");
  check_spoilt([](auto& v) { v.tokens[260] = "<|im_start|>"; }, "tokens 259 and 260 are both \"<|im_start|>\"");
}

TEST_CASE("merges that are no merges are refused with their number") {
  for (const char* text : {"", " ", "a", "a ", " a", "ab", "a  b", "a b c", "a b "}) {
    CAPTURE(text);
    check_spoilt([&](auto& v) { v.merges[1] = text; }, "merges[1] is");
  }
  check_spoilt([](auto& v) { v.merges.push_back("x \u2581"); }, "byte alphabet");
  check_spoilt([](auto& v) { v.merges.push_back("x \xFF"); }, "byte alphabet");
}

TEST_CASE("merges of what is not in the vocabulary are refused with the part that is missing") {
  check_spoilt([](auto& v) { v.merges.push_back("xy z"); }, "merges[3] is \"xy z\", but \"xy\" is not");
  check_spoilt([](auto& v) { v.merges.push_back("x yz"); }, "but \"yz\" is not");
  check_spoilt([](auto& v) { v.merges.push_back("x y"); }, "but \"xy\" is not");
  // Far down, in a later batch.
  check_spoilt(
      [](auto& v) {
        v.merges.resize(1000, "a b");
        v.merges[901] = "b a";
      },
      "merges[901]");
}

TEST_CASE("ids outside the vocabulary are refused") {
  for (const std::string name : {"bos", "eos", "eot", "eom"}) {
    check_replaced(name + "_token_id", std::uint64_t{262}, errc::malformed_file, name + "_token_id is 262");
    check_replaced(name + "_token_id", std::uint64_t{1} << 32, errc::malformed_file, "4294967296");
  }
}

TEST_CASE("a token of a MiB is a token like any other") {
  small_vocabulary v = small_vocabulary::make();
  const std::string huge(std::size_t{1} << 20, 'q');
  v.tokens.push_back(huge);
  v.types.push_back(1);
  v.tokens.push_back("<" + huge);
  v.types.push_back(3);
  const tokenizer tok(v.file("llama-bpe"));
  CHECK(tok.encode(huge) == std::vector<token_id>{262});
  CHECK(tok.encode("<" + huge, {.special = true}) == std::vector<token_id>{263});
  CHECK(tok.piece(262).size() == huge.size());
}

TEST_CASE("tokens outside the byte alphabet, and empty ones, print but are never made") {
  small_vocabulary v = small_vocabulary::make();
  for (const char* text : {"\u2581x", "a b", "", "", "\xFF"}) {
    v.tokens.emplace_back(text);
    v.types.push_back(1);
  }
  const tokenizer tok(v.file("llama-bpe"));
  CHECK(tok.piece(262) == "\u2581x");
  CHECK(tok.piece(264).empty());
  CHECK(tok.encode("\u2581x").size() == 4);
  CHECK(tok.encode("\xFF") == std::vector<token_id>{255});
}
