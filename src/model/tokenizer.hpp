/// Converts text to token ids and back: byte-level BPE as Llama 3, SmolLM and GPT-2 use it.
#pragma once

#include "src/model/gguf.hpp"
#include "tropilla/types.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// How `encode` treats text that looks like a special token.
struct encode_options {
  bool bos = false;     ///< begin with the model's BOS
  bool special = false; ///< recognise special tokens in the text; a user's text must not
};

/// Immutable after construction; any thread. Byte-level BPE (Sennrich et al. 2016; GPT-2's byte alphabet) with the
/// pre-tokenizers of `find_pretokenizer`, run by PCRE2 with JIT and match limits; merging by a heap in O(n log n).
/// Invalid UTF-8 is kept byte for byte: a byte of no character splits words as a symbol would. Bytes that the
/// vocabulary has no token for are dropped, as Hugging Face's tokenizers does (SmolLM2's lacks 21, among them those
/// that occur in no UTF-8). "User defined" tokens count as special: text becomes them only when asked.
class tokenizer {
public:
  /// Throws `error`: malformed_file (tokens or merges missing or contradictory), unsupported (not byte-level BPE, an
  /// unknown pre-tokenizer). Defects that it can do without become notices, and ids are llama.cpp's: types that are
  /// missing or unknown, special ids out of range, merges of unknown tokens at the end, a pre-tokenizer that is not
  /// named.
  explicit tokenizer(const gguf_file& file);
  ~tokenizer();
  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;

  /// A BOS that the text spells out at its beginning, where `special`, is the only one: a second would be none of the
  /// prompts that the model has seen.
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, const encode_options& options = {}) const;
  /// A lower bound of the text's tokens, whatever the options, found in one pass without tokenising.
  [[nodiscard]] std::size_t min_tokens(std::string_view text) const noexcept;
  /// Whether the text begins with the special token BOS.
  [[nodiscard]] bool begins_with_bos(std::string_view text) const;

  /// The bytes of one token. Control tokens give nothing unless `special`. Throws `error` (invalid_argument) out of
  /// range.
  [[nodiscard]] std::string_view piece(token_id id, bool special = false) const;
  [[nodiscard]] std::string decode(std::span<const token_id> ids, bool special = false) const;

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] token_id bos() const noexcept; ///< -1: none
  [[nodiscard]] token_id eos() const noexcept; ///< -1: none
  [[nodiscard]] bool add_bos() const noexcept; ///< the model wants a BOS before a raw prompt
  /// Tokens that end a reply: eos, eot and their kin (<|eot_id|>, <|im_end|>, <|endoftext|>, <|end_of_text|>,
  /// <|eom_id|>).
  [[nodiscard]] bool ends_generation(token_id id) const noexcept;
  [[nodiscard]] bool is_control(token_id id) const noexcept;
  /// Sentences about defects of the file that do not keep it from being read.
  [[nodiscard]] std::span<const std::string> notices() const noexcept;
  /// A special token by its exact text.
  [[nodiscard]] std::optional<token_id> find_special(std::string_view text) const;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// Emits whole UTF-8 characters only, holding back the bytes of an unfinished one. Invalid bytes become U+FFFD
/// (one per maximal subpart, as the Unicode Standard recommends, section 3.9).
class utf8_stream {
public:
  /// The characters that `bytes` completes. The view is valid until the next call.
  [[nodiscard]] std::string_view push(std::string_view bytes);
  /// The characters that are left at the end, replaced where unfinished.
  [[nodiscard]] std::string_view finish();

private:
  std::string pending_;
  std::string out_;
};

} // namespace tropilla
