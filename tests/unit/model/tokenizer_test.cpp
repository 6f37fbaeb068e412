// Special tokens, ends of replies, ids out of range.
#include "src/model/tokenizer.hpp"
#include "tests/unit/model/vocabularies.hpp"

#include <catch2/catch.hpp>
#include <thread>

using namespace tropilla;
using tropilla::testing::recorded_vocabulary;
using tropilla::testing::small_vocabulary;
using ids = std::vector<token_id>;

TEST_CASE("special tokens in a text are text unless asked for") {
  const tokenizer tok(small_vocabulary::make().file());
  const std::string text = "ab<|im_start|>abc<added>";
  const ids plain = tok.encode(text);
  CHECK(std::ranges::none_of(plain, [](token_id id) { return id >= 259; }));
  CHECK(tok.decode(plain) == text);
  CHECK(tok.encode(text, {.special = true}) == ids{256, 259, 257, 261});
  CHECK(tok.encode("<|im_start|", {.special = true}) == tok.encode("<|im_start|"));
}

TEST_CASE("of special tokens that begin alike the longest counts") {
  small_vocabulary v = small_vocabulary::make();
  for (const char* text : {"<|im", "<|", "<|im_start|>x"}) {
    v.tokens.emplace_back(text); // 262, 263, 264
    v.types.push_back(3);
  }
  const tokenizer tok(v.file());
  CHECK(tok.encode("<|im_start|>x<|im_start|><|im_<|<", {.special = true}) == ids{264, 259, 262, '_', 263, '<'});
}

TEST_CASE("control tokens print only when asked, added ones always") {
  const tokenizer tok(small_vocabulary::make().file());
  CHECK(tok.piece(259).empty());
  CHECK(tok.piece(259, true) == "<|im_start|>");
  CHECK(tok.piece(261) == "<added>");
  CHECK(tok.piece(258) == " a");
  CHECK(tok.decode(ids{256, 259, 258}) == "ab a");
  CHECK(tok.decode(ids{256, 259, 258}, true) == "ab<|im_start|> a");
  CHECK(tok.is_control(260));
  CHECK_FALSE(tok.is_control(261));
  CHECK_FALSE(tok.is_control(-1));
  CHECK_FALSE(tok.is_control(262));
  CHECK(tok.find_special("<added>") == 261);
  CHECK_FALSE(tok.find_special("ab"));
  CHECK_FALSE(tok.find_special(""));
}

TEST_CASE("ids outside the vocabulary are refused with its size") {
  const tokenizer tok(small_vocabulary::make().file());
  for (const token_id id : {-1, 262, 2147483647, -2147483647 - 1}) {
    CAPTURE(id);
    CHECK_THROWS_AS(tok.piece(id), error);
    CHECK_THROWS_WITH(tok.decode(ids{1, id}), Catch::Contains("262 tokens") && Catch::Contains(std::to_string(id)));
    CHECK_FALSE(tok.ends_generation(id));
  }
}

TEST_CASE("BOS comes when asked for and there is one") {
  gguf_file file = small_vocabulary::make().file();
  CHECK(tokenizer(file).encode("ab", {.bos = true}) == ids{256});
  CHECK(tokenizer(file).bos() == -1);
  CHECK(tokenizer(file).eos() == -1);
  CHECK_FALSE(tokenizer(file).add_bos());
  file.metadata["tokenizer.ggml.bos_token_id"] = std::uint64_t{259};
  CHECK(tokenizer(file).encode("ab", {.bos = true}) == ids{259, 256});
  CHECK(tokenizer(file).encode("", {.bos = true}) == ids{259});
  CHECK(tokenizer(file).encode("ab") == ids{256});
  CHECK_FALSE(tokenizer(file).add_bos());
  file.metadata["tokenizer.ggml.add_bos_token"] = true;
  CHECK(tokenizer(file).add_bos());
}

TEST_CASE("a BOS that the text spells out is the only one") {
  gguf_file file = small_vocabulary::make().file();
  file.metadata["tokenizer.ggml.bos_token_id"] = std::uint64_t{259};
  const tokenizer tok(file);
  CHECK(tok.encode("<|im_start|>ab", {.bos = true, .special = true}) == ids{259, 256});
  CHECK(tok.encode("<|im_start|><|im_start|>", {.bos = true, .special = true}) == ids{259, 259}); // what it spells
  CHECK(tok.encode(" <|im_start|>", {.bos = true, .special = true}) == ids{259, ' ', 259});
  CHECK(tok.encode("<|im_start|>ab", {.bos = true}).front() == 259); // text, which BOS goes before
  CHECK(tok.encode("<|im_start|>ab", {.bos = true}).at(1) == '<');
  CHECK(tok.begins_with_bos("<|im_start|>ab"));
  CHECK_FALSE(tok.begins_with_bos("<|im_end|>"));
  CHECK_FALSE(tok.begins_with_bos("<|im_start|"));
  CHECK_FALSE(tokenizer(small_vocabulary::make().file()).begins_with_bos("<|im_start|>"));
}

TEST_CASE("a Llama 3 vocabulary wants BOS unless it says otherwise") {
  gguf_file file = recorded_vocabulary("llama3", "llama-bpe");
  CHECK(tokenizer(file).add_bos());
  file.metadata["tokenizer.ggml.add_bos_token"] = false;
  CHECK_FALSE(tokenizer(file).add_bos());
}

TEST_CASE("replies end at eos, eot, eom and the tokens of those names") {
  gguf_file file = small_vocabulary::make().file();
  CHECK(tokenizer(file).ends_generation(260)); // <|im_end|>
  CHECK_FALSE(tokenizer(file).ends_generation(259));
  file.metadata["tokenizer.ggml.eos_token_id"] = std::uint64_t{65};
  file.metadata["tokenizer.ggml.eot_token_id"] = std::uint64_t{66};
  file.metadata["tokenizer.ggml.eom_token_id"] = std::uint64_t{67};
  const tokenizer tok(file);
  CHECK(tok.eos() == 65);
  for (const token_id id : {65, 66, 67, 260})
    CHECK(tok.ends_generation(id));
  CHECK_FALSE(tok.ends_generation(64));

  const tokenizer llama(recorded_vocabulary("llama3", "llama-bpe"));
  for (const token_id id : {128001, 128008, 128009}) // <|end_of_text|>, <|eom_id|>, <|eot_id|>
    CHECK(llama.ends_generation(id));
  CHECK_FALSE(llama.ends_generation(128000));
}

TEST_CASE("structural names are special even where a file calls them text") {
  small_vocabulary v = small_vocabulary::make();
  v.types[259] = 1;
  v.types[260] = 4;
  const tokenizer tok(v.file());
  CHECK(tok.find_special("<|im_start|>") == 259);
  CHECK(tok.is_control(260));
  CHECK(tok.ends_generation(260));
}

TEST_CASE("bytes that no token spells are dropped") {
  small_vocabulary v = small_vocabulary::make();
  v.tokens['z'].clear();
  v.types['z'] = 5;
  const tokenizer tok(v.file());
  CHECK(tok.encode("azb") == ids{256}); // as if it were not there
  CHECK(tok.encode("zzz").empty());
}

TEST_CASE("a Llama 3 word that is a token is that token, whatever the merges say") {
  small_vocabulary v = small_vocabulary::make();
  v.tokens.emplace_back("unreachable"); // 262
  v.types.push_back(1);
  CHECK(tokenizer(v.file("llama-bpe")).encode("unreachable") == ids{262});
  CHECK(tokenizer(v.file("llama3")).encode("unreachable") == ids{262});
  CHECK(tokenizer(v.file("llama-v3")).encode("unreachable") == ids{262});
  CHECK(tokenizer(v.file("gpt-2")).encode("unreachable").size() == 10); // "ab" merges;
}

TEST_CASE("one tokenizer serves threads") {
  const tokenizer tok(recorded_vocabulary("llama3", "llama-bpe"));
  std::string text;
  while (text.size() < 20000)
    text += "The sky is blue, isn't it? 1234 \n";
  const auto expected = tokenizer(recorded_vocabulary("llama3", "llama-bpe")).encode(text);
  std::vector<std::vector<token_id>> got(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : got)
      threads.emplace_back([&] { result = tok.encode(text); });
  }
  for (const auto& result : got)
    CHECK(result == expected);
}

TEST_CASE("a text has no fewer tokens than its bytes say") {
  const tokenizer llama(recorded_vocabulary("llama3", "llama-bpe"));
  for (const std::string& text : {std::string(), std::string("a"), std::string(100000, ' '), std::string(5000, '='),
                                  std::string("<|eot_id|><|begin_of_text|>"), std::string(3000, '\xFF')})
    for (const bool special : {false, true})
      CHECK(llama.min_tokens(text) <= llama.encode(text, {false, special}).size());
  CHECK(llama.min_tokens(std::string(1000000, 'a')) > 1000);
  small_vocabulary v = small_vocabulary::make();
  v.tokens['z'].clear();
  v.types['z'] = 5;
  CHECK(tokenizer(v.file()).min_tokens(std::string(10000, 'z')) == 0); // they are dropped
}
