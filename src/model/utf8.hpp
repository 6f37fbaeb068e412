/// Handles UTF-8 that may be broken: where characters begin and end, and what is not a character.
///
/// Source: the Unicode Standard, section 3.9 (well-formed byte sequences, table 3-7; maximal subparts).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tropilla::utf8 {

enum class form : std::uint8_t {
  whole,      ///< a well-formed character
  unfinished, ///< the bytes end inside what could become one
  broken,     ///< a maximal subpart of an ill-formed sequence
};

/// The first character of some bytes: its form and its length in bytes (1 to 4).
struct character {
  form what = form::broken;
  std::size_t length = 1;
};

/// Looks at the front of `bytes`, which must not be empty.
[[nodiscard]] character front(std::string_view bytes) noexcept;

/// Whether all of `bytes` is well-formed.
[[nodiscard]] bool is_valid(std::string_view bytes) noexcept;

/// `bytes` where they are well-formed; otherwise a copy of the same length in `storage`, in which each byte that
/// belongs to no character is `substitute`.
[[nodiscard]] std::string_view mask_invalid(std::string_view bytes, char substitute, std::string& storage);

/// U+FFFD REPLACEMENT CHARACTER.
constexpr std::string_view replacement = "\xEF\xBF\xBD";

/// `bytes` between quotation marks for a message: at most 40 bytes, what does not print as \xNN.
[[nodiscard]] std::string quoted(std::string_view bytes);

} // namespace tropilla::utf8
