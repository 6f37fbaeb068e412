/// Vocabularies for the tokenizer's tests, as plain GGUF metadata.
#pragma once

#include "src/model/gguf.hpp"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tropilla::testing {

/// A file of `tests/data`, byte for byte.
[[nodiscard]] std::string read_text(const std::string& name);

/// A JSON file of `tests/data`, parsed.
[[nodiscard]] nlohmann::json read_data(const std::string& name);

/// `tests/data/tokenizer-vocabulary-NAME.json` as a GGUF file would hold it, cut by `pre`. Tokens that the reduced
/// vocabulary leaves out are empty and unused, so that ids are those of the whole one.
[[nodiscard]] gguf_file recorded_vocabulary(const std::string& name, const std::string& pre);

/// What a vocabulary is made of, to be spoilt by a test before `file()`.
struct small_vocabulary {
  std::vector<std::string> tokens; ///< in the byte alphabet
  std::vector<std::int64_t> types; ///< 1: normal, 3: control, 4: user defined, 5: unused
  std::vector<std::string> merges;

  /// All 256 bytes (id = byte), "ab" (256), "abc" (257), " a" (258) with their merges, and <|im_start|> (259),
  /// <|im_end|> (260), <added> (261; user defined).
  [[nodiscard]] static small_vocabulary make();
  [[nodiscard]] gguf_file file(const std::string& pre = "gpt-2") const;
};

/// GPT-2's spelling of bytes.
[[nodiscard]] std::string spell(const std::string& bytes);

} // namespace tropilla::testing
