// Writes options as Markdown from what is bound.
#include "tests/unit/app/option_table.hpp"

#include "tropilla/error.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fmt/format.h>
#include <regex>
#include <sstream>

namespace tropilla::app {
namespace {

/// The names of an option without those that mean its opposite: "-n", "--max-tokens".
std::vector<std::string> names_of(const option_text& option) {
  std::vector<std::string> names;
  std::istringstream in(option.names);
  for (std::string name; std::getline(in, name, ',');)
    if (!name.starts_with('!'))
      names.push_back(name);
  return names;
}

/// A phrase of --help with these as code: options, values like cuda:0=6GiB, and what stands for the option's value,
/// "keep the `N` most probable tokens".
std::string as_markdown(std::string phrase, const std::string& value) {
  phrase = std::regex_replace(phrase, std::regex("--[a-z][a-z0-9-]*|[a-z][a-z,]*[:=][^ ();]*\\w"), "`$&`");
  const bool one_word = !value.empty() && std::ranges::all_of(value, [](char c) { return c >= 'A' && c <= 'Z'; });
  return one_word ? std::regex_replace(phrase, std::regex("\\b" + value + "\\b"), "`$&`") : phrase;
}

std::string row_of(const bound_option& option) {
  std::string names;
  for (const std::string& name : names_of(option.text))
    names += (names.empty() ? "`" : "`, `") + name;
  names += (option.text.value.empty() ? "" : " ") + option.text.value + "`";
  const std::string meaning = as_markdown(option.text.meaning, option.text.value) + option.text.more;
  std::string cells[] = {names, as_markdown(option.otherwise, ""), meaning};
  for (std::string& cell : cells)
    cell = std::regex_replace(cell, std::regex("\\|"), "\\|");
  return fmt::format("| {} | {} | {} |\n", cells[0], cells[1], cells[2]);
}

bool is_named(const bound_option& option, const std::string& name) {
  const auto names = names_of(option.text);
  return option.group == name || std::ranges::find(names, name) != names.end();
}

} // namespace

std::string option_table(const option_declaration& bind, std::span<const std::string> selected) {
  CLI::App app;
  std::string config;
  const std::vector<bound_option> options = declare_options(app, bind, config);
  std::string rows;
  if (selected.empty())
    for (const bound_option& option : options)
      rows += row_of(option);
  for (const std::string& name : selected) {
    const std::size_t before = rows.size();
    for (const bound_option& option : options)
      if (is_named(option, name))
        rows += row_of(option);
    if (rows.size() == before)
      throw error(errc::invalid_argument, fmt::format("neither an option nor a heading of --help is \"{}\"", name));
  }
  return "| Option | Default | |\n| --- | --- | --- |\n" + rows;
}

} // namespace tropilla::app
