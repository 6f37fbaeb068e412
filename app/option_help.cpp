// Writes the options of --help from what is bound.
#include "app/option_binder.hpp"

#include "app/text.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

/// The column at which explanations begin: after "  -n, --max-tokens N". Longer names have a line of their own.
constexpr std::size_t max_indent = 26;

/// "  -n, --max-tokens N"; names without a short one line up behind those that have one.
std::string names_of(const CLI::Option& option) {
  std::string names = "  ";
  names += option.get_snames().empty() ? "    " : fmt::format("-{}, ", option.get_snames().front());
  const bool has_opposite = option.get_lnames().size() > 1 && option.get_lnames()[1] == "no-" + option.get_lnames()[0];
  names += (has_opposite ? "--[no-]" : "--") + option.get_lnames().front();
  if (const std::string value = option.get_type_name(); !value.empty())
    names += " " + value;
  return names;
}

std::string meaning_of(const CLI::Option& option) {
  const std::string otherwise = option.get_default_str();
  return option.get_description() + (otherwise.empty() ? "" : fmt::format(" (default: {})", otherwise));
}

} // namespace

std::string option_help(const option_declaration& bind, std::size_t columns) {
  CLI::App app;
  std::string config;
  declare_options(app, bind, config);
  std::vector<const CLI::Option*> named;
  for (const CLI::Option* option : std::as_const(app).get_options())
    if (!option->get_lnames().empty())
      named.push_back(option);

  std::vector<std::string> groups;
  for (const CLI::Option* option : named)
    if (std::find(groups.begin(), groups.end(), option->get_group()) == groups.end())
      groups.push_back(option->get_group());
  std::string text;
  for (const std::string& group : groups) {
    text += fmt::format("{}{}:\n", text.empty() ? "" : "\n", group);
    for (const CLI::Option* option : named) {
      if (option->get_group() != group)
        continue;
      const std::string names = names_of(*option);
      const std::string meaning = wrap(meaning_of(*option), columns, max_indent);
      if (names.size() + 2 <= max_indent)
        text += names + meaning.substr(names.size()) + "\n"; // in place of the first line's indent
      else
        text += names + "\n" + meaning + "\n";
    }
  }
  return text;
}

} // namespace tropilla::app
