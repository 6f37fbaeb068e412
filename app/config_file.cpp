// Finds and reads the TOML file of --config.
#include "app/options.hpp"

#include "app/files.hpp"
#include "app/foreign_options.hpp"
#include "app/text.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sstream>
#include <toml++/toml.h>

namespace tropilla::app {
namespace {

namespace fs = std::filesystem;

/// The value as it would be written on the command line.
std::string scalar_text(const toml::node& node, const std::string& where) {
  if (const auto* text = node.as_string())
    return text->get();
  if (const auto* flag = node.as_boolean())
    return flag->get() ? "true" : "false";
  if (const auto* integer = node.as_integer())
    return fmt::format("{}", integer->get());
  if (const auto* number = node.as_floating_point())
    return fmt::format("{}", number->get());
  throw error(errc::malformed_file, fmt::format("{}: expected text, a number or true/false", where));
}

config_value value_of(const toml::node& node, const std::string& where) {
  config_value value;
  if (const auto* array = node.as_array()) {
    value.array = true;
    for (const toml::node& element : *array)
      value.texts.push_back(scalar_text(element, where));
  } else {
    value.texts.push_back(scalar_text(node, where));
  }
  return value;
}

std::string position(const std::string& path, const toml::node& node) {
  return fmt::format("{}:{}", path, node.source().begin.line);
}

/// The option that a key means: its own name, with dashes for underscores, or what another program calls it. Throws
/// `error` (malformed_file) where it is none.
std::string option_of(const std::string& key, const std::string& where, const option_context& context) {
  const auto& known = context.known_keys;
  const auto is_known = [&](std::string_view name) {
    return std::find(known.begin(), known.end(), name) != known.end();
  };
  std::string name = key;
  std::replace(name.begin(), name.end(), '_', '-');
  if (is_known(name))
    return name;
  const foreign_option* foreign = find_foreign_option("--" + name, context.command);
  if (foreign && is_known(foreign->key))
    return std::string(foreign->key);
  if (foreign)
    throw error(errc::malformed_file, fmt::format("{} {}", where, foreign->sentence));
  const std::string near = closest(name, known);
  throw error(errc::malformed_file, where + " is not an option of any command" +
                                        (near.empty() ? "" : fmt::format("; did you mean {}?", near)));
}

void collect(const toml::table& from, const std::string& path, const option_context& context,
             std::vector<std::pair<std::string, config_value>>& into) {
  for (const auto& [key, node] : from) {
    if (node.is_table())
      continue;
    const std::string where = position(path, node) + ": " + escape(key.str());
    into.emplace_back(option_of(std::string(key.str()), where, context), value_of(node, where));
  }
}

} // namespace

std::string find_config_file(const std::string& name, const environment_lookup& environment) {
  if (name.find('/') != std::string::npos || name.ends_with(".toml"))
    return name;
  const std::string file = name + ".toml";
  std::vector<fs::path> places = {fs::path("configs") / file};
  std::error_code ignored;
  // A build tree leaves the program in build/<preset>/bin, an installation in <prefix>/bin.
  if (const fs::path program = fs::read_symlink("/proc/self/exe", ignored); !program.empty()) {
    places.push_back((program.parent_path() / "../../../configs" / file).lexically_normal());
    places.push_back((program.parent_path() / "../share/tropilla/configs" / file).lexically_normal());
  }
  if (const fs::path user = user_directory("XDG_CONFIG_HOME", ".config"); !environment && !user.empty())
    places.push_back(user / "tropilla" / file);
  for (const fs::path& place : places)
    if (fs::is_regular_file(place, ignored))
      return place.string();
  std::vector<std::string> tried;
  for (const fs::path& place : places)
    tried.push_back(place.string());
  throw error(errc::io_error, fmt::format("no configuration \"{}\": tried {}", escape(name), fmt::join(tried, ", ")));
}

std::vector<std::pair<std::string, config_value>> read_config_file(const std::string& path,
                                                                   const option_context& context) {
  toml::table root;
  try {
    root = toml::parse(read_file(path, max_settings_bytes), path);
  } catch (const toml::parse_error& e) {
    throw error(errc::malformed_file,
                fmt::format("{}:{}:{}: {}", path, e.source().begin.line, e.source().begin.column, e.description()));
  }
  std::vector<std::pair<std::string, config_value>> values;
  collect(root, path, context, values);
  if (const toml::table* own = root[context.command].as_table())
    collect(*own, path, context, values);
  return values;
}

} // namespace tropilla::app
