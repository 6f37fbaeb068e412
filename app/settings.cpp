// Parses settings through CLI11, as the command line does: one declaration, one set of checks.
#include "app/settings.hpp"

#include "app/foreign_options.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "app/translate.hpp"
#include "tropilla/error.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

constexpr std::string_view command_name = "chat";
constexpr std::string_view blanks = " \t";

/// The options that a declaration makes, by name.
class declared_options {
public:
  explicit declared_options(const option_declaration& declare) {
    option_binder binder(app_);
    app_.set_help_flag();
    declare(binder);
  }

  [[nodiscard]] const CLI::App& app() const noexcept { return app_; }
  [[nodiscard]] std::string key_of(std::string_view name) const { return app::key_of(name, app_, command_name); }
  [[nodiscard]] CLI::Option& at(const std::string& key) { return *app_.get_option("--" + key); }
  /// The value when the options were declared, as text that sets it; of several texts, all of them.
  [[nodiscard]] std::string value(const std::string& key) { return at(key).capture_default_str()->get_default_str(); }
  [[nodiscard]] std::vector<std::string> keys() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : app_.get_options())
      names.push_back(option->get_lnames().front());
    return names;
  }

private:
  CLI::App app_;
};

std::string shown(const std::string& value) {
  return value.empty() ? "none" : value;
}

[[noreturn]] void reject(const std::string& name, const changeable_options& options) {
  const std::string fixed = declared_options(options.fixed).key_of(name);
  if (!fixed.empty())
    throw error(errc::invalid_argument,
                fmt::format("--{} counts when the program starts (tropilla chat --help)", fixed));
  const foreign_option* foreign = find_foreign_option("--" + name, command_name);
  if (foreign && !foreign->sentence.empty())
    throw error(errc::invalid_argument, fmt::format("{} {}", name, foreign->sentence));
  const std::string near = closest(name, setting_names(options.now));
  throw error(errc::invalid_argument,
              fmt::format("/set knows no option {}{}; /params lists those that it knows", escape(shorten(name, 40)),
                          near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
}

} // namespace

setting_words split_setting(std::string_view text) {
  setting_words words;
  for (;;) {
    const std::size_t begin = std::min(text.find_first_not_of(blanks), text.size());
    const std::size_t end = std::min(text.find_first_of(blanks, begin), text.size());
    words.name = text.substr(begin, end - begin);
    text.remove_prefix(std::min(text.find_first_not_of(blanks, end), text.size()));
    if (words.name != "parameter")
      break;
  }
  words.value = text;
  words.name.erase(0, std::min(words.name.find_first_not_of('-'), words.name.size()));
  std::replace(words.name.begin(), words.name.end(), '_', '-');
  return words;
}

std::string change_setting(const changeable_options& options, const setting_words& words) {
  declared_options now(options.now), by_default(options.by_default);
  const std::string key = now.key_of(words.name);
  if (key.empty())
    reject(words.name, options);
  CLI::Option& option = now.at(key);
  const bool flag = option.get_expected_max() == 0;
  if (flag || !words.value.empty()) {
    const bool reset = words.value == "default";
    const std::string value = reset ? by_default.value(option.get_lnames().front()) : words.value;
    try {
      if (flag)
        option.add_result(reset ? value : option.get_flag_value(key, value)); // --no-x sets x to the opposite
      else
        option.add_result(value.empty() ? std::string(no_text) : value);
      option.run_callback();
    } catch (const CLI::ParseError&) {
      throw error(errc::invalid_argument, fmt::format("--{} must be on or off, not \"{}\"", key, escape(value)));
    }
  }
  const std::string name = option.get_lnames().front();
  const std::string value = declared_options(options.now).value(name), usual = by_default.value(name);
  return value == usual ? fmt::format("{} {}", name, shown(value))
                        : fmt::format("{} {} (default {})", name, shown(value), shown(usual));
}

std::string settings_table(const changeable_options& options) {
  declared_options now(options.now), by_default(options.by_default);
  table t{{{"option"}, {"value"}, {"default"}}, {}};
  for (const std::string& key : now.keys()) {
    const std::string value = now.value(key), usual = by_default.value(key);
    t.rows.push_back({key, shown(value) + (value == usual ? "" : " *"), shown(usual)});
  }
  return t.aligned() + "/set NAME VALUE changes one; /set NAME default puts it back";
}

std::vector<std::string> setting_names(const option_declaration& options) {
  std::vector<std::string> names = declared_options(options).keys();
  const std::vector<std::string> others = foreign_names(names, command_name);
  names.insert(names.end(), others.begin(), others.end());
  return names;
}

} // namespace tropilla::app
