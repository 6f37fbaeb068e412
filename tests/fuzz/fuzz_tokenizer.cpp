// Two uses of the bytes, chosen by the first: a text for a small vocabulary, whose ids must give the text back; or a
// vocabulary, which must be refused with a sentence or work.
#include "src/model/chat_template.hpp"
#include "src/model/template_text.hpp"
#include "src/model/tokenizer.hpp"
#include "src/model/utf8.hpp"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::array<const char*, 5> cuts{"gpt-2", "smollm", "llama-bpe", "default", "smaug-bpe"};

void require(bool holds) {
  if (!holds)
    std::abort();
}

// GPT-2's spelling of a byte.
std::string spell(unsigned byte) {
  const unsigned code = byte <= 0x20                   ? 0x100 + byte
                        : byte >= 0x7F && byte <= 0xA0 ? 0x121 + byte - 0x7F
                        : byte == 0xAD                 ? 0x143
                                                       : byte;
  if (code < 0x80)
    return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

gguf_file make_file(const char* pre, std::vector<std::string> tokens, std::vector<std::int64_t> types,
                    std::vector<std::string> merges) {
  gguf_file file;
  file.metadata["tokenizer.ggml.model"] = std::string("gpt2");
  file.metadata["tokenizer.ggml.pre"] = std::string(pre);
  file.metadata["tokenizer.ggml.tokens"] = gguf_array{std::move(tokens)};
  file.metadata["tokenizer.ggml.token_type"] = gguf_array{std::move(types)};
  file.metadata["tokenizer.ggml.merges"] = gguf_array{std::move(merges)};
  return file;
}

// Every byte, some merges that chain and compete, and special tokens that begin alike.
tokenizer small_tokenizer(const char* pre) {
  std::vector<std::string> tokens;
  for (unsigned byte = 0; byte < 256; ++byte)
    tokens.push_back(spell(byte));
  std::vector<std::string> merges;
  for (const auto& [left, right] :
       std::initializer_list<std::pair<std::string, std::string>>{{"a", "a"},
                                                                  {"aa", "aa"},
                                                                  {"a", "b"},
                                                                  {"b", "a"},
                                                                  {"ab", "ab"},
                                                                  {spell(' '), "a"},
                                                                  {spell(' '), spell(' ')},
                                                                  {spell('\n'), spell('\n')},
                                                                  {"1", "2"},
                                                                  {"12", "3"},
                                                                  {spell(0xF0), spell(0x9F)}}) {
    merges.push_back(left + " " + right);
    tokens.push_back(left + right);
  }
  std::vector<std::int64_t> types(tokens.size(), 1);
  for (const char* text : {"<|im_start|>", "<|im_end|>", "<|im", "<|", "aab"}) {
    tokens.emplace_back(text);
    types.push_back(3);
  }
  return tokenizer(make_file(pre, tokens, types, merges));
}

void check_round_trip(const tokenizer& tok, const std::string& text) {
  for (const bool special : {false, true}) {
    const auto ids = tok.encode(text, {.special = special});
    require(tok.decode(ids, special) == text);
    utf8_stream whole;
    std::string expected(whole.push(text));
    expected += whole.finish();
    utf8_stream stream;
    std::string streamed;
    for (const token_id id : ids) {
      require(special || !tok.is_control(id));
      const std::string_view part = stream.push(tok.piece(id, special));
      require(utf8::is_valid(part));
      streamed += part;
    }
    streamed += stream.finish();
    require(streamed == expected);
  }
}

// Lines of the bytes: "T" a token of type 1, "S" of type 3, "U" of type 4, "X" of a type named by the next byte, "M" a
// merge, "J" the chat template, anything else text to encode.
void check_vocabulary(const char* pre, bool all_bytes, std::string_view bytes) {
  std::vector<std::string> tokens;
  std::vector<std::int64_t> types;
  std::vector<std::string> merges;
  std::string jinja;
  std::string text;
  if (all_bytes)
    for (unsigned byte = 0; byte < 256; ++byte) {
      tokens.push_back(spell(byte));
      types.push_back(1);
    }
  while (!bytes.empty()) {
    const std::string_view line = bytes.substr(0, bytes.find('\n'));
    bytes.remove_prefix(std::min(bytes.size(), line.size() + 1));
    const char kind = line.empty() ? ' ' : line.front();
    const std::string rest(line.substr(line.empty() ? 0 : 1));
    if (kind == 'M') {
      merges.push_back(rest);
    } else if (kind == 'J') {
      jinja = rest;
    } else if (kind == 'T' || kind == 'S' || kind == 'U') {
      tokens.push_back(rest);
      types.push_back(kind == 'T' ? 1 : kind == 'S' ? 3 : 4);
    } else if (kind == 'X') {
      tokens.push_back(rest);
      types.push_back(rest.empty() ? 9 : rest.front() - '0');
    } else {
      text += line;
    }
  }
  const template_text written(jinja);
  (void)written.between("<|im_start|>system\n", "<|im_end|>");
  (void)written.assigned_to("system");
  (void)written.other_than({"system", "user", ""});
  try {
    gguf_file file = make_file(pre, tokens, types, merges);
    file.metadata["tokenizer.ggml.bos_token_id"] = static_cast<std::uint64_t>(text.size());
    file.metadata["tokenizer.chat_template"] = jinja;
    const tokenizer tok(file);
    if (all_bytes)
      check_round_trip(tok, text);
    else
      (void)tok.decode(tok.encode(text, {.bos = true, .special = true}));
    const std::vector<chat_message> messages{{"user", text}};
    (void)chat_template::from_model(file, tok).encode(tok, messages);
  } catch (const error& e) {
    require(e.code() == errc::malformed_file || e.code() == errc::unsupported);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array<tokenizer, 5> tokenizers{small_tokenizer(cuts[0]), small_tokenizer(cuts[1]),
                                                   small_tokenizer(cuts[2]), small_tokenizer(cuts[3]),
                                                   small_tokenizer(cuts[4])};
  if (size == 0)
    return 0;
  const std::size_t cut = data[0] < 18 ? data[0] % 3 : 3 + data[0] % 2;
  const std::size_t use = data[0] / 3 % 3;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (use == 0)
    check_round_trip(tokenizers[cut], rest);
  else
    check_vocabulary(cuts[cut], use == 1, rest);
  return 0;
}
