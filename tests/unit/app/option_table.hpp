/// Makes the tables of options in docs/command-line.md.
#pragma once

#include "app/option_binder.hpp"

#include <span>
#include <string>

namespace tropilla::app {

/// A Markdown table of a command's options with a row for each: names, default, and what it is for. `selected` names
/// headings of --help ("Sampling") and single options ("--temp"), whose rows come in this order; empty: all options.
/// Throws `error` (invalid_argument) where one of them names nothing.
[[nodiscard]] std::string option_table(const option_declaration& bind, std::span<const std::string> selected = {});

} // namespace tropilla::app
