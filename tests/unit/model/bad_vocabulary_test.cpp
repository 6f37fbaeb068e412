// Vocabularies that contradict themselves: refused with one sentence, or read with one.
#include "src/model/tokenizer.hpp"
#include "tests/unit/model/vocabularies.hpp"

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

/// The file is read, with one notice that has all parts.
tokenizer check_noticed(const gguf_file& file, const std::vector<std::string>& parts) {
  tokenizer tok(file);
  REQUIRE(tok.notices().size() == 1);
  for (const std::string& part : parts)
    CHECK_THAT(tok.notices()[0], Catch::Contains(part));
  return tok;
}

template <class T>
gguf_file replaced(const std::string& key, T value) {
  gguf_file file = small_vocabulary::make().file();
  file.metadata["tokenizer.ggml." + key] = std::move(value);
  return file;
}

template <class T>
void check_replaced(const std::string& key, T value, errc code, const std::string& part) {
  check_refused(replaced(key, std::move(value)), code, part);
}

} // namespace

TEST_CASE("a vocabulary without one of its parts is refused") {
  for (const std::string key : {"tokens", "merges", "model"}) {
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

TEST_CASE("a sound vocabulary has no notices") {
  for (const std::string pre : {"gpt-2", "smollm", "llama-bpe", "falcon3"})
    CHECK(tokenizer(small_vocabulary::make().file(pre)).notices().empty());
}

TEST_CASE("without types special tokens are those with well-known names") {
  gguf_file file = small_vocabulary::make().file();
  file.metadata.erase("tokenizer.ggml.token_type");
  const tokenizer tok = check_noticed(file, {"lacks tokenizer.ggml.token_type"});
  CHECK(tok.find_special("<|im_start|>") == 259);
  CHECK(tok.is_control(260));
  CHECK(tok.ends_generation(260));
  CHECK_FALSE(tok.find_special("<added>"));
  CHECK(tok.encode("ab<|im_start|>", {.special = true}) == std::vector<token_id>{256, 259});
}

TEST_CASE("unsigned types are types") {
  CHECK(tokenizer(replaced("token_type", gguf_array{std::vector<std::uint64_t>(262, 1)})).size() == 262);
}

TEST_CASE("types that are none count as text") {
  for (const std::int64_t type : {std::int64_t{7}, std::int64_t{-1}, INT64_MIN, INT64_MAX}) {
    small_vocabulary v = small_vocabulary::make();
    v.types[261] = type; // <added>
    v.types['z'] = type;
    const tokenizer tok = check_noticed(v.file(), {"token_type[122] is " + std::to_string(type), "it and 1 more"});
    CHECK_FALSE(tok.find_special("<added>"));
    CHECK(tok.encode("z") == std::vector<token_id>{'z'});
    CHECK(tok.piece(261) == "<added>");
  }
  std::vector<std::uint64_t> types(262, 1);
  types[3] = UINT64_MAX;
  (void)check_noticed(replaced("token_type", gguf_array{types}),
                      {"token_type[3] is 18446744073709551615", "the token counts as text"});
}

TEST_CASE("types of tokens that are not there are ignored") {
  small_vocabulary v = small_vocabulary::make();
  v.types.push_back(3);
  CHECK(check_noticed(v.file(), {"263 entries for 262 tokens"}).size() == 262);
}

TEST_CASE("a tokenizer of another kind is refused by name") {
  check_replaced("model", std::string("llama"), errc::unsupported, "\"llama\"");
  check_replaced("pre", std::string("deepseek-coder"), errc::unsupported, "\"deepseek-coder\"");
}

TEST_CASE("a pre-tokenizer that is missing, empty or the default cuts as llama.cpp's default does") {
  gguf_file missing = small_vocabulary::make().file();
  missing.metadata.erase("tokenizer.ggml.pre");
  const std::string text = "ab'ab 1234";
  const std::vector<token_id> expected{256, '\'', 256, ' ', '1', '2', '3', '4'};
  CHECK(check_noticed(missing, {"tokenizer.ggml.pre is missing"}).encode(text) == expected);
  CHECK(check_noticed(replaced("pre", std::string()), {"is missing"}).encode(text) == expected);
  CHECK(check_noticed(replaced("pre", std::string("default")), {"is \"default\""}).encode(text) == expected);
}

TEST_CASE("smaug-bpe is Llama 3's without whole words and without BOS unless asked for") {
  small_vocabulary v = small_vocabulary::make();
  v.tokens.emplace_back("unreachable"); // 262
  v.types.push_back(1);
  gguf_file file = v.file("smaug-bpe");
  file.metadata["tokenizer.ggml.bos_token_id"] = std::uint64_t{259};
  const tokenizer tok = check_noticed(file, {"smaug-bpe"});
  CHECK(tok.encode("unreachable").size() == 10); // "ab" merges
  CHECK_FALSE(tok.add_bos());
  file.metadata["tokenizer.ggml.add_bos_token"] = true;
  CHECK(tokenizer(file).add_bos());
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
  check_spoilt([](auto& v) { v.merges[1] = "x \u2581"; }, "byte alphabet");
  check_spoilt([](auto& v) { v.merges[1] = "x \xFF"; }, "byte alphabet");
}

TEST_CASE("merges of what is not in the vocabulary are refused with the part that is missing") {
  check_spoilt([](auto& v) { v.merges[1] = "xy z"; }, "merges[1] is \"xy z\", but \"xy\" is not");
  check_spoilt([](auto& v) { v.merges[1] = "x yz"; }, "but \"yz\" is not");
  check_spoilt([](auto& v) { v.merges[1] = "x y"; }, "but \"xy\" is not");
  // Far down, in a later batch.
  check_spoilt(
      [](auto& v) {
        v.merges.resize(1000, "a b");
        v.merges[901] = "b a";
      },
      "merges[901]");
}

TEST_CASE("merges that can't be used are ignored at the end of the list") {
  for (const char* text : {"xy z", "x yz", "x y", "", "a b c", "x \u2581", "x \xFF"}) {
    CAPTURE(text);
    small_vocabulary v = small_vocabulary::make();
    v.merges.emplace_back(text);
    CHECK(check_noticed(v.file(), {"merges[3] is", "the last merge is ignored"}).encode("abcxyz") ==
          std::vector<token_id>{257, 'x', 'y', 'z'});
    v.merges.resize(1000, text);
    CHECK(check_noticed(v.file(), {"merges[3] is", "it and the other 996"}).encode("ab") == std::vector<token_id>{256});
    v.merges.emplace_back("a b");
    check_refused(v.file(), errc::malformed_file, "merges[3] is");
  }
  check_spoilt([](auto& v) { v.merges = {"x y", "y x"}; }, "merges[0] is \"x y\"");
}

TEST_CASE("special ids outside the vocabulary are ignored by name") {
  for (const std::string name : {"bos", "eos", "eot", "eom"}) {
    const std::string key = name + "_token_id";
    const auto check = [&](gguf_value value, const std::string& number) {
      const tokenizer tok = check_noticed(replaced(key, std::move(value)), {key + " is " + number, "262 tokens"});
      CHECK(tok.bos() == -1);
      CHECK(tok.eos() == -1);
      CHECK_FALSE(tok.ends_generation(-1));
      CHECK(tok.encode("ab", {.bos = true}) == std::vector<token_id>{256});
    };
    check(std::uint64_t{262}, "262");
    check(std::uint64_t{1} << 32, "4294967296");
    check(std::uint64_t{UINT32_MAX}, "4294967295");
    check(std::int64_t{-1}, "-1");
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
