/// Turns command lines as users of other programs type them into ours.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
} // namespace CLI

namespace tropilla::app {

/// The key of `app` that `name` (a long name without dashes) means: the name itself, with dashes for underscores, or
/// the key of the option that another program calls so. Empty where nothing in `app` is meant.
[[nodiscard]] std::string key_of(std::string_view name, const CLI::App& app, std::string_view command);

/// `arguments` with the app's own names in place of those of other programs, and without what changes nothing here:
/// `notices` gets a sentence for each of those. Unknown options stay as they are. Throws `error` (invalid_argument) for
/// options that are explained and refused, and for long names behind one dash.
[[nodiscard]] std::vector<std::string> translate_arguments(std::span<const std::string> arguments, const CLI::App& app,
                                                           std::string_view command, std::vector<std::string>& notices);

/// "did you mean --temp?" for an unknown option, with its dashes and maybe "=value" behind it; or empty.
[[nodiscard]] std::string suggestion(std::string_view unknown, const CLI::App& app, std::string_view command);

} // namespace tropilla::app
