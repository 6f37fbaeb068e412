/// Finds the strings that end a reply in text that comes in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// Holds back what may still become a stop string. Linear in the text for each string (Knuth, Morris and Pratt, "Fast
/// Pattern Matching in Strings", 1977).
class stop_matcher {
public:
  explicit stop_matcher(const std::vector<std::string>& strings);

  /// Text that may be shown now. After a match: what stands before it, and from then on nothing. Pieces of whole UTF-8
  /// characters come out as whole characters.
  [[nodiscard]] std::string push(std::string_view text);
  /// Returns the text that was held back, at the end of a reply that did not match.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool matched() const noexcept { return matched_; }

private:
  struct pattern {
    std::string text;
    std::vector<std::size_t> border; ///< of each beginning: its longest proper beginning that is also its end
    std::size_t state = 0;           ///< bytes of it that the text ends with
  };
  std::vector<pattern> patterns_;
  std::string held_;
  bool matched_ = false;
};

} // namespace tropilla
