/// Maps the options and commands of llama.cpp and ollama to tropilla's, or explains why there is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// An option of another program, under all its names.
struct foreign_option {
  enum class fate : std::uint8_t {
    renamed, ///< it is `key` here
    ignored, ///< nothing changes, and `sentence` says why
    refused, ///< what was asked for does not happen, and `sentence` says what to do instead
  };
  enum class operand : std::uint8_t { none, one, on_or_off /**< "on", "off", "auto" or nothing */ };

  std::string_view names; ///< with dashes, separated by commas: "-ngl,--gpu-layers"
  fate what;
  operand value = operand::one;
  std::string_view key{};      ///< long name without dashes
  std::string_view sentence{}; ///< follows the name that was typed: "changes nothing: ..."
  std::string_view command{};  ///< only there; empty: everywhere
};

/// The entry of `name` (with its dashes, "-ngl") for `command`, or null.
[[nodiscard]] const foreign_option* find_foreign_option(std::string_view name, std::string_view command);

/// The long names that other programs have for options of these keys, all without dashes.
[[nodiscard]] std::vector<std::string> foreign_names(std::span<const std::string> keys, std::string_view command);

/// The long names, without dashes, of options that have no counterpart but an explanation.
[[nodiscard]] std::vector<std::string> explained_names(std::string_view command);

/// A command of another program, and the one that does the same here, or a sentence.
struct foreign_command {
  std::string_view name;
  std::string_view here{};
  std::string_view sentence{};
};

/// The entry of `name`, or null.
[[nodiscard]] const foreign_command* find_foreign_command(std::string_view name);

} // namespace tropilla::app
