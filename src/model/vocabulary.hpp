/// Reads and checks the vocabulary of a GGUF file: texts, kinds and merges of tokens, and what the file says of them.
#pragma once

#include "src/model/bpe.hpp"
#include "src/model/gguf.hpp"
#include "src/model/pretokenizer.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace tropilla {

/// The kind of a token; it follows `tokenizer.ggml.token_type`.
enum class token_kind : std::uint8_t {
  text,    ///< what merging makes of bytes
  control, ///< structure: begins, ends, roles; prints nothing
  added,   ///< the author's addition ("user defined"): prints, but merging never makes it
  unused,  ///< padding of the vocabulary
};

/// Tokens that are not text, by their exact spelling.
class special_tokens {
public:
  struct found {
    std::size_t at;
    std::size_t length;
    token_id id;
  };

  /// Takes control and added tokens. Returns two with the same spelling, if there are any.
  [[nodiscard]] std::optional<std::pair<token_id, token_id>> assign(const token_texts& texts,
                                                                    const std::vector<token_kind>& kinds);
  [[nodiscard]] std::optional<token_id> find(const token_texts& texts, std::string_view text) const;
  /// The first in `text`, the longest of those that begin there.
  [[nodiscard]] std::optional<found> search(const token_texts& texts, std::string_view text) const;
  /// The longest that `text` begins with.
  [[nodiscard]] std::optional<found> match_front(const token_texts& texts, std::string_view text) const;

private:
  std::vector<token_id> sorted_; ///< by text
  std::array<bool, 256> first_{};
};

/// A checked vocabulary, plain data once read.
struct vocabulary {
  token_texts texts; ///< the bytes of tokens of text; the others as they are spelt
  std::vector<token_kind> kinds;
  token_index words; ///< tokens of text; empty after reading unless `whole_words`
  merge_table merges;
  special_tokens specials;
  std::array<token_id, 256> byte_ids{}; ///< -1: no token is this byte alone
  pretokenizer_kind cut = pretokenizer_kind::gpt2;
  bool whole_words = false; ///< a word that is a token is that token, whatever the merges say (Llama 3)
  bool add_bos = false;
  token_id bos = -1;
  token_id eos = -1;
  std::vector<token_id> ends; ///< of a reply; sorted
  /// Sentences about defects of the file that do not keep it from being read.
  std::vector<std::string> notices;

  /// Throws `error` as `tokenizer` does.
  [[nodiscard]] static vocabulary read(const gguf_file& file);
};

} // namespace tropilla
