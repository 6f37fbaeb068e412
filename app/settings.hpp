/// Changes options while the program runs: `/set temp 0.8`, with the names, checks and sentences of the command line.
#pragma once

#include "app/option_binder.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tropilla::app {

/// The words behind /set: "temp 0.8", or in ollama's form "parameter temperature 0.8". Either part may be missing.
struct setting_words {
  std::string name;
  std::string value;
};
[[nodiscard]] setting_words split_setting(std::string_view text);

/// Options that may change, what they are by default, and those that only count when the program starts.
struct changeable_options {
  option_declaration now;
  option_declaration by_default;
  option_declaration fixed;
};

/// Sets the option that `words` name, by its own name or by what llama.cpp and ollama call it; the value "default" puts
/// back what holds by default. Without a value a flag is turned on, and nothing else changes. Returns what holds now:
/// "temp 0.8 (default 0.6)". Throws `error` (invalid_argument), and nothing has changed.
std::string change_setting(const changeable_options& options, const setting_words& words);

/// All options with their values, and an asterisk at those that differ from what holds by default.
[[nodiscard]] std::string settings_table(const changeable_options& options);

/// The names of the options, those of llama.cpp and ollama behind them.
[[nodiscard]] std::vector<std::string> setting_names(const option_declaration& options);

} // namespace tropilla::app
