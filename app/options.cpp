// Layers options: command line over environment over file.
#include "app/options.hpp"

#include "app/foreign_options.hpp"
#include "app/text.hpp"
#include "app/translate.hpp"
#include "tropilla/error.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

std::string variable_name(std::string_view key) {
  std::string name = "TROPILLA_";
  for (const char c : key)
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

const char* look_up(const environment_lookup& environment, const std::string& name) {
  const char* value = environment ? environment(name.c_str()) : std::getenv(name.c_str());
  return value && *value ? value : nullptr;
}

/// Sets an option from a layer below the command line; its errors say where the value came from.
void set_from(CLI::Option& option, const std::string& key, std::vector<std::string> values, const std::string& source) {
  try {
    if (option.get_expected_max() == 0)
      for (std::string& value : values)
        value = option.get_flag_value(key, value); // --no-x sets x to the opposite
    option.clear();                                // a file's table of one command wins over its top
    option.add_result(std::move(values));
    option.run_callback();
  } catch (const CLI::ParseError& e) {
    throw error(errc::invalid_argument, fmt::format("{}: {}", source, e.what()));
  } catch (const error& e) {
    throw error(e.code(), fmt::format("{}: {}", source, e.what()));
  }
}

[[noreturn]] void reject_extras(const CLI::App& app, const option_context& context) {
  const std::string found = app.remaining().front();
  const bool is_option = found.starts_with('-');
  std::string hint = is_option ? suggestion(found, app, context.command) : "";
  if (!hint.empty())
    hint = "; " + hint;
  if (is_option && found.find(' ') != std::string::npos)
    hint += "; a text that begins with a dash goes after -- or into its option";
  throw error(errc::invalid_argument,
              fmt::format("{} knows no {} \"{}\"{} (tropilla {} --help)", context.command,
                          is_option ? "option" : "argument", escape(found), hint, context.command));
}

void parse_command_line(CLI::App& app, std::span<const std::string> arguments, const option_context& context) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend()); // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    throw help_requested{};
  } catch (const CLI::ParseError& e) {
    throw error(errc::invalid_argument, fmt::format("{} (tropilla {} --help)", e.what(), context.command));
  }
  if (app.remaining_size() > 0)
    reject_extras(app, context);
}

/// Fills from the environment what the command line left open: by an option's own name, then by what others call it.
void read_environment(CLI::App& app, const option_context& context) {
  for (CLI::Option* option : app.get_options()) {
    if (option->count() > 0 || option->get_lnames().empty() || option == app.get_help_ptr())
      continue;
    std::vector<std::string> names{option->get_lnames().front()};
    for (std::string& other : foreign_names(names, context.command))
      names.push_back(std::move(other));
    for (const std::string& name : names) {
      const std::string variable = variable_name(name);
      if (const char* value = look_up(context.environment, variable)) {
        set_from(*option, name, {value}, variable);
        break;
      }
    }
  }
}

/// Fills from a file what the layers above it left open.
void read_file_layer(CLI::App& app, const std::string& path, const option_context& context) {
  std::vector<CLI::Option*> set_above;
  for (CLI::Option* option : app.get_options())
    if (option->count() > 0)
      set_above.push_back(option);
  for (const auto& [key, value] : read_config_file(path, context)) {
    CLI::Option* option = app.get_option_no_throw("--" + key);
    if (!option || std::find(set_above.begin(), set_above.end(), option) != set_above.end())
      continue;
    if (value.array && option->get_multi_option_policy() != CLI::MultiOptionPolicy::TakeAll)
      throw error(errc::malformed_file, fmt::format("{}: {}: expected text, a number or true/false", path, key));
    if (!value.texts.empty())
      set_from(*option, key, value.texts, path + ": " + key);
  }
}

bool is_set(const CLI::App& app, const char* flag) {
  const CLI::Option* option = app.get_option_no_throw(flag);
  return option && option->count() > 0 && option->as<bool>();
}

} // namespace

std::vector<std::string> long_options(const option_declaration& bind) {
  CLI::App app;
  option_binder binder(app);
  bind(binder);
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (name != "help")
        names.push_back(name);
  return names;
}

parsed_options parse_options(const option_declaration& bind, std::span<const std::string> arguments,
                             const option_context& context) {
  CLI::App app;
  app.allow_extras();
  std::string config;
  declare_options(app, bind, config);
  parsed_options parsed;
  parse_command_line(app, translate_arguments(arguments, app, context.command, parsed.notices), context);
  read_environment(app, context);
  if (!config.empty())
    read_file_layer(app, find_config_file(config, context.environment), context);
  parsed.quiet = is_set(app, "--quiet") || is_set(app, "--json");
  return parsed;
}

} // namespace tropilla::app
