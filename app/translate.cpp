// Translates words before CLI11 reads them: for CLI11, -ngl is -n with the value "gl".
#include "app/translate.hpp"

#include "app/foreign_options.hpp"
#include "app/text.hpp"
#include "tropilla/error.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

std::string dashed(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

/// The app's option of a long or a one-letter name, given without dashes; or null.
const CLI::Option* option_of(const CLI::App& app, const std::string& name) {
  for (const CLI::Option* option : app.get_options())
    for (const auto* names : {&option->get_lnames(), &option->get_snames()})
      if ((names == &option->get_snames()) == (name.size() == 1) &&
          std::find(names->begin(), names->end(), name) != names->end())
        return option;
  return nullptr;
}

std::vector<std::string> keys_of(const CLI::App& app) {
  std::vector<std::string> keys;
  for (const CLI::Option* option : app.get_options())
    keys.insert(keys.end(), option->get_lnames().begin(), option->get_lnames().end());
  return keys;
}

/// An option as it was typed: "--top_k=4" is {"--", "top_k", "4"}, "-ngl99" {"-", "ngl", "99"}.
struct typed_option {
  std::string_view dashes, name;
  std::optional<std::string_view> value; ///< that is attached
};

std::optional<typed_option> split(std::string_view word) {
  typed_option o;
  o.dashes = word.substr(0, word.starts_with("--") ? 2 : word.starts_with('-') ? 1 : 0);
  o.name = word.substr(o.dashes.size());
  if (o.dashes.empty() || o.name.empty() || !is_letter(o.name.front()))
    return std::nullopt;
  if (const std::size_t sign = o.name.find('='); sign != std::string_view::npos) {
    o.value = o.name.substr(sign + 1);
    o.name = o.name.substr(0, sign);
  } else if (o.dashes.size() == 1 && is_digit(o.name.back())) {
    const std::size_t digits =
        static_cast<std::size_t>(std::find_if_not(o.name.rbegin(), o.name.rend(), is_digit) - o.name.rbegin());
    o.value = o.name.substr(o.name.size() - digits);
    o.name.remove_suffix(digits);
  }
  return o;
}

bool is_on_or_off(std::string_view word) {
  return word == "on" || word == "off" || word == "auto" || word == "0" || word == "1";
}

/// Whether a one-letter option takes any text, so that what is attached to it may look like a name.
bool takes_text(const CLI::App& app, char letter) {
  const CLI::Option* option = option_of(app, std::string(1, letter));
  return option && option->get_items_expected_max() > 0 && option->get_type_name() != "N" &&
         option->get_type_name() != "X";
}

} // namespace

std::string key_of(std::string_view name, const CLI::App& app, std::string_view command) {
  std::string key = dashed(name);
  if (option_of(app, key))
    return key;
  const foreign_option* foreign = find_foreign_option("--" + key, command);
  const bool meant = foreign && foreign->what == foreign_option::fate::renamed;
  return meant && option_of(app, std::string(foreign->key)) ? std::string(foreign->key) : std::string();
}

std::vector<std::string> translate_arguments(std::span<const std::string> arguments, const CLI::App& app,
                                             std::string_view command, std::vector<std::string>& notices) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--") { // only words from here on
      out.insert(out.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
      break;
    }
    const auto typed = split(word);
    const bool is_long = typed && typed->dashes.size() == 2;
    const std::string name = typed ? (is_long ? dashed(typed->name) : std::string(typed->name)) : "";
    if (!typed || (is_long && name == typed->name && option_of(app, name)) ||
        (!is_long && name.size() == 1 && option_of(app, name))) {
      out.push_back(word);
      continue;
    }
    const auto emit = [&](std::string_view key) {
      out.push_back(fmt::format("--{}{}", key, typed->value ? fmt::format("={}", *typed->value) : ""));
    };
    if (is_long && option_of(app, name)) {
      emit(name);
      continue;
    }
    const std::string shown = std::string(typed->dashes) + name;
    const foreign_option* foreign = find_foreign_option(shown, command);
    if (foreign && foreign->what == foreign_option::fate::renamed) {
      if (!option_of(app, std::string(foreign->key)))
        foreign = nullptr; // of other commands
      else
        emit(foreign->key);
    } else if (foreign && foreign->what == foreign_option::fate::refused) {
      throw error(errc::invalid_argument, fmt::format("{} {}", shown, foreign->sentence));
    } else if (foreign) {
      notices.push_back(fmt::format("{} {}", shown, foreign->sentence));
      const bool next = !typed->value && i + 1 < arguments.size() && !split(arguments[i + 1]);
      if (next && (foreign->value == foreign_option::operand::one ||
                   (foreign->value == foreign_option::operand::on_or_off && is_on_or_off(arguments[i + 1]))))
        ++i;
    }
    if (foreign)
      continue;
    // CLI11 would take such a word for one letter and a value that is attached to it.
    if (!is_long && name.size() > 2 &&
        std::all_of(name.begin(), name.end(), [](char c) { return is_letter(c) || c == '-' || c == '_'; })) {
      const std::string key = key_of(name, app, command);
      if (key == "help") {
        emit(key);
        continue;
      }
      if (!key.empty())
        throw error(errc::invalid_argument, fmt::format("long options begin with two dashes, unlike {}; did you mean "
                                                        "--{}? (tropilla {} --help)",
                                                        shown, key, command));
      const std::string hint = takes_text(app, name.front()) ? "" : suggestion(word, app, command);
      if (!hint.empty())
        throw error(errc::invalid_argument, fmt::format("{} knows no option \"{}\"; {} (tropilla {} --help)", command,
                                                        escape(shown), hint, command));
    }
    out.push_back(word);
  }
  return out;
}

std::string suggestion(std::string_view unknown, const CLI::App& app, std::string_view command) {
  const std::size_t begin = unknown.find_first_not_of('-');
  if (begin == std::string_view::npos)
    return "";
  const std::string name = dashed(unknown.substr(begin, unknown.find('=') - begin));
  const std::vector<std::string> own = keys_of(app);
  std::vector<std::string> names = own;
  for (const auto& more : {foreign_names(names, command), explained_names(command)})
    names.insert(names.end(), more.begin(), more.end());
  const std::string near = closest(name, names);
  if (near.empty())
    return "";
  const foreign_option* foreign = find_foreign_option("--" + near, command);
  if (foreign && foreign->what == foreign_option::fate::refused && std::ranges::find(own, near) == own.end())
    return fmt::format("--{} {}", near, foreign->sentence); // and not only when it is typed rightly
  return fmt::format("did you mean --{}?", near);
}

} // namespace tropilla::app
