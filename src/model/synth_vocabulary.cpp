// Makes up a vocabulary that byte-level BPE tokenizers accept.
#include "src/model/synth_vocabulary.hpp"

#include <array>
#include <cassert>
#include <fmt/format.h>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {
namespace {

constexpr std::size_t special_token_count = 256;

/// `message.role` and the content between Llama 3's header tokens.
constexpr std::string_view chat_template =
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

std::string utf8(unsigned code) {
  if (code < 0x80)
    return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

/// Bytes as GPT-2 writes them: visible Latin-1 characters stand for themselves, the others for U+0100 and on.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> visible;
  std::vector<std::string> shifted;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool shown = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    if (shown)
      visible.push_back(utf8(byte));
    else
      shifted.push_back(utf8(0x100 + static_cast<unsigned>(shifted.size())));
  }
  visible.insert(visible.end(), shifted.begin(), shifted.end());
  return visible;
}

/// Tokens and merges that grow together.
class lexicon {
public:
  explicit lexicon(std::size_t size) : size_(size), tokens_(byte_alphabet()) {}

  /// Makes words of one to four letters, each made in one way only: letters, then pairs of pairs, with and without the
  /// space before them (U+0120 in GPT-2's alphabet).
  void grow() {
    std::vector<std::string> letters;
    for (char c = 'a'; c <= 'z'; ++c)
      letters.emplace_back(1, c);
    const std::vector<std::string> space_letters = join({"\xC4\xA0"}, letters);
    const std::vector<std::string> pairs = join(letters, letters);
    join(space_letters, letters);
    join(pairs, letters);
    join(space_letters, pairs);
    join(pairs, pairs);
    assert(tokens_.size() == size_);
  }

  [[nodiscard]] std::vector<std::string>& tokens() { return tokens_; }
  [[nodiscard]] const std::vector<std::string>& merges() const { return merges_; }

private:
  /// Adds every `first + second` while there is room; returns what was added.
  std::vector<std::string> join(const std::vector<std::string>& firsts, const std::vector<std::string>& seconds) {
    std::vector<std::string> added;
    for (const std::string& first : firsts)
      for (const std::string& second : seconds) {
        if (tokens_.size() == size_)
          return added;
        tokens_.push_back(first + second);
        merges_.push_back(first + " " + second);
        added.push_back(tokens_.back());
      }
    return added;
  }

  std::size_t size_;
  std::vector<std::string> tokens_;
  std::vector<std::string> merges_;
};

/// Llama 3's special tokens, in order.
std::vector<std::string> special_names() {
  std::vector<std::string> names{"<|begin_of_text|>",
                                 "<|end_of_text|>",
                                 "<|reserved_special_token_0|>",
                                 "<|reserved_special_token_1|>",
                                 "<|finetune_right_pad_id|>",
                                 "<|reserved_special_token_2|>",
                                 "<|start_header_id|>",
                                 "<|end_header_id|>",
                                 "<|eom_id|>",
                                 "<|eot_id|>",
                                 "<|python_tag|>"};
  for (std::size_t reserved = 3; names.size() < special_token_count; ++reserved)
    names.push_back(fmt::format("<|reserved_special_token_{}|>", reserved));
  return names;
}

} // namespace

void put_vocabulary(gguf_builder& builder, std::size_t size) {
  constexpr std::int32_t normal = 1;
  constexpr std::int32_t control = 3;
  constexpr std::size_t bos = 0; // among the special tokens
  constexpr std::size_t pad = 4;
  constexpr std::size_t eot = 9;
  const std::size_t words = size - special_token_count;
  lexicon made(words);
  made.grow();
  auto& tokens = made.tokens();
  for (std::string& name : special_names())
    tokens.push_back(std::move(name));
  std::vector<std::int32_t> types(words, normal);
  types.resize(size, control);
  builder.put_text("tokenizer.ggml.model", "gpt2");
  builder.put_text("tokenizer.ggml.pre", "llama-bpe");
  builder.put_texts("tokenizer.ggml.tokens", tokens);
  builder.put_i32s("tokenizer.ggml.token_type", types);
  builder.put_texts("tokenizer.ggml.merges", made.merges());
  builder.put_u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(words + bos));
  builder.put_u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(words + eot));
  builder.put_u32("tokenizer.ggml.padding_token_id", static_cast<std::uint32_t>(words + pad));
  builder.put_flag("tokenizer.ggml.add_bos_token", true);
  builder.put_text("tokenizer.chat_template", chat_template);
}

} // namespace tropilla
