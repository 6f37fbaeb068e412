/// Finds out what text a chat template's Jinja writes, as far as that can be told without running it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// The literals of a template in their order, read without evaluating a condition. Branches about tools, functions,
/// documents and images are left out: a conversation of messages never takes them.
class template_text {
public:
  /// Any text is a template. Linear in its length.
  explicit template_text(std::string_view jinja);

  /// The text between `begin` and `end` with nothing computed in between.
  [[nodiscard]] std::optional<std::string> between(std::string_view begin, std::string_view end) const;
  /// The literal that `set NAME = "..."` gives to the first NAME that contains `part`; empty literals don't count.
  [[nodiscard]] std::optional<std::string> assigned_to(std::string_view part) const;
  /// The first stretch of text with a letter that is left when all of `known` is taken out, and every <|token|>.
  [[nodiscard]] std::optional<std::string> other_than(const std::vector<std::string_view>& known) const;

private:
  struct assignment {
    std::string name;
    std::string value;
  };
  friend class template_reader;

  std::string written_; ///< what is computed is `computed`, a statement `statement`
  std::vector<assignment> assignments_;
};

} // namespace tropilla
