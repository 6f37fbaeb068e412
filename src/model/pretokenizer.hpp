/// Cuts text into the words within which byte-level BPE merges, as the tokenizer's authors did.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla {

/// The regular expression that cuts. GPT-2's is that of its `encoder.py`; SmolLM's isolates each digit first; Llama 3's
/// is that of its `tokenizer.py` (contractions in any case, up to three digits, line breaks at the end of a word). The
/// fallback is what llama.cpp does with files that name none: punctuation apart, then GPT-2's, then digits by three.
enum class pretokenizer_kind : std::uint8_t { gpt2, smollm, llama3, fallback };

/// The choices that a pre-tokenizer's name stands for, as llama.cpp reads it.
struct pretokenizer_choice {
  pretokenizer_kind kind;
  bool whole_words = false; ///< a word that is a token is that token, whatever the merges say
  bool add_bos = false;     ///< the default where the file does not say
};

/// The choice that `tokenizer.ggml.pre` names: "llama-bpe" and its aliases "llama3", "llama-v3" and "falcon3",
/// "smaug-bpe" (Llama 3's expression without its other rules), "smollm", "gpt-2", "default" (the fallback).
[[nodiscard]] std::optional<pretokenizer_choice> find_pretokenizer(std::string_view name) noexcept;

/// A compiled expression. Any thread. Long texts run JIT-compiled code, short ones PCRE2's interpreter: compiling
/// costs more than it saves there.
class pretokenizer {
public:
  explicit pretokenizer(pretokenizer_kind kind);
  ~pretokenizer();
  pretokenizer(const pretokenizer&) = delete;
  pretokenizer& operator=(const pretokenizer&) = delete;

  class words;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// The words of one text, in order; together they are the text. Borrows the pretokenizer and the text. Linear in the
/// text's length. A byte that is not part of a UTF-8 character counts as a symbol (as U+FFFD would), and is kept.
class pretokenizer::words {
public:
  words(const pretokenizer& owner, std::string_view text);
  ~words();
  words(const words&) = delete;
  words& operator=(const words&) = delete;

  /// The next word, never empty; nothing at the end. Throws `error` (internal) should PCRE2 reach its match limit.
  [[nodiscard]] std::optional<std::string_view> next();

private:
  struct match;
  std::string_view text_;
  std::string masked_;       ///< the text with its invalid bytes replaced, if it has any
  std::string_view subject_; ///< what the expression sees: `text_` or `masked_`
  std::size_t at_ = 0;
  std::unique_ptr<match> match_;
};

} // namespace tropilla
