// Binds options to fields, with strict checks of their values.
#include "app/option_binder.hpp"

#include "app/log_output.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <optional>
#include <random>

namespace tropilla::app {
namespace {

[[noreturn]] void bad_value(const std::string& title, const std::string& expected, const std::string& found) {
  throw error(errc::invalid_argument, fmt::format("{} must be {}, not \"{}\"", title, expected, escape(found)));
}

/// The name of an option in sentences: its first long name.
std::string title_of(const option_text& option) {
  const std::size_t dashes = option.names.find("--");
  return dashes == std::string::npos ? option.names
                                     : option.names.substr(dashes, option.names.find(',', dashes) - dashes);
}

template <class Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end)
    return std::nullopt;
  return value;
}

std::string range_text(const count_limits& limits) {
  const std::string range = limits.max == std::numeric_limits<std::size_t>::max()
                                ? fmt::format("a whole number from {} up", limits.min)
                                : fmt::format("a whole number from {} to {}", limits.min, limits.max);
  return limits.minus_one.empty() ? range : fmt::format("{}, or -1 ({})", range, limits.minus_one);
}

int hex_digit(char c) {
  constexpr std::string_view digits = "0123456789abcdef";
  const auto at = digits.find(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

/// "f16, bf16 or q8_0".
std::string one_of(const std::vector<std::string>& words) {
  if (words.size() < 2)
    return fmt::format("{}", fmt::join(words, ""));
  return fmt::format("{} or {}", fmt::join(words.begin(), words.end() - 1, ", "), words.back());
}

/// Markdown that shows a text as it is typed.
std::string code(const std::string& text) {
  return fmt::format("`{}`", text);
}

std::string code_or_none(const std::string& text) {
  return text.empty() ? "none" : code(text);
}

/// "300MiB" or "80%".
device_budget budget_of(const std::string& device, const std::string& text) {
  if (const auto percent = parse_percent(text))
    return {device, 0, *percent};
  return {device, parse_bytes(text)};
}

} // namespace

std::string unescape(const std::string& text, const std::string& title) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    constexpr std::string_view names = "ntr\\", meanings = "\n\t\r\\";
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (const auto known = names.find(next); next != '\0' && known != std::string_view::npos) {
      out += meanings[known];
      i += 1;
    } else if (next == 'x' && i + 3 < text.size() && hex_digit(text[i + 2]) >= 0 && hex_digit(text[i + 3]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 2]) * 16 + hex_digit(text[i + 3]));
      i += 3;
    } else {
      bad_value(title, R"(a text in which a backslash begins \n, \t, \r, \\ or \x and two hexadecimal digits)", text);
    }
  }
  return out;
}

CLI::Option& option_binder::explain(CLI::Option* bound, const option_text& option, const shown_value& now) {
  bound_.push_back({option, group_, option.otherwise.empty() ? now.on_page : option.otherwise});
  bound->description(option.meaning)->group(group_)->type_name(option.value);
  return *bound->default_str(option.otherwise.empty() ? now.text : option.otherwise);
}

void option_binder::add(const option_text& option, const shown_value& now,
                        const std::function<void(const std::string&)>& set) {
  explain(app_.add_option_function<std::string>(option.names, set), option, now).take_last();
}

void option_binder::flag(const option_text& option, bool& value) {
  const auto word = [&value] { return std::string(value ? "on" : "off"); };
  explain(app_.add_flag(option.names, value), option, {value ? "on" : "", word()}).take_last()->default_function(word);
}

void option_binder::text(const option_text& option, std::string& value, bool* given) {
  add(option, {value, code_or_none(value)}, [&value, given](const std::string& text) {
    value = text;
    if (given)
      *given = true;
  });
}

void option_binder::path(const option_text& option, std::filesystem::path& value) {
  add(option, {value.string(), code_or_none(value.string())}, [&value](const std::string& text) { value = text; });
}

void option_binder::count(const option_text& option, std::size_t& value, const count_limits& limits) {
  const bool beyond = value == limits.minus_one_is && value > limits.max;
  add(option, {beyond ? "-1" : fmt::format("{}", value)},
      [&value, limits, title = title_of(option)](const std::string& text) {
        if (text == "-1" && !limits.minus_one.empty()) {
          value = limits.minus_one_is;
          return;
        }
        const auto number = parse_number<std::size_t>(text);
        if (!number || *number < limits.min || *number > limits.max)
          bad_value(title, range_text(limits), text);
        value = *number;
      });
}

void option_binder::number(const option_text& option, double& value, const number_range& range) {
  add(option, {fmt::format("{}", value)}, [&value, range, title = title_of(option)](const std::string& text) {
    const auto number = parse_number<double>(text);
    if (!number || !range.has(*number))
      bad_value(title, fmt::format("a number from {} to {}", range.min, range.max), text);
    value = *number;
  });
}

void option_binder::seed(const option_text& option, std::uint64_t& value, bool& drawn) {
  add(option, {fmt::format("{}", value)}, [&value, &drawn, title = title_of(option)](const std::string& text) {
    drawn = text == "-1";
    if (drawn) {
      value = std::random_device{}(); // 32 bits: as many digits as people like to type again
      return;
    }
    const auto number = parse_number<std::uint64_t>(text);
    if (!number)
      bad_value(title, "a whole number from 0 up, or -1 (one is drawn)", text);
    value = *number;
  });
}

void option_binder::device_bytes(const option_text& option, std::vector<device_budget>& values) {
  add(option, {""}, [&values, title = title_of(option)](const std::string& text) {
    values.clear();
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find(',', at), text.size());
      const std::string one = text.substr(at, end - at);
      const std::size_t sign = one.find('=');
      try {
        if (sign != std::string::npos)
          values.push_back(budget_of(one.substr(0, sign), one.substr(sign + 1)));
        else if (one.find(':') != std::string::npos)
          values.push_back({one});
        else
          values.push_back(budget_of("host:0", one));
      } catch (const error&) {
        bad_value(title,
                  "a size like 300MiB, a share like 80% (above 0% and up to 100%), a device like cuda:0, or one for "
                  "each device: host:0=300MiB,host:1=50%",
                  text);
      }
      at = end + 1;
    }
  });
}

void option_binder::bytes(const option_text& option, std::size_t& value) {
  add(option, {value == 0 ? "none" : format_bytes(value)}, [&value, title = title_of(option)](const std::string& text) {
    try {
      value = parse_bytes(text);
    } catch (const error&) {
      bad_value(title, "a size like 300MiB", text);
    }
  });
}

void option_binder::choice(const option_text& option, std::string& value, std::vector<std::string> words) {
  option_text listed = option;
  listed.meaning += ": " + one_of(words);
  std::vector<std::string> on_page;
  for (const std::string& word : words)
    on_page.push_back(code(word));
  add(listed, {value, code_or_none(value)},
      [&value, title = title_of(option), words = std::move(words)](const std::string& text) {
        if (std::find(words.begin(), words.end(), text) == words.end())
          bad_value(title, fmt::format("one of {}", fmt::join(words, ", ")), text);
        value = text;
      });
  bound_.back().text.meaning = option.meaning + ": " + one_of(on_page);
}

void option_binder::texts(const option_text& option, std::vector<std::string>& values) {
  explain(app_.add_option_function<std::vector<std::string>>(
              option.names,
              [&values, title = title_of(option)](const std::vector<std::string>& given) {
                values.clear();
                for (const std::string& text : given)
                  if (text != no_text)
                    values.push_back(unescape(text, title));
              }),
          option, {""})
      .allow_extra_args(false) // one text each time: the next word is the prompt's
      ->take_all()
      ->default_function([&values] {
        std::vector<std::string> shown;
        for (const std::string& text : values)
          shown.push_back(escape(text));
        return fmt::format("{}", fmt::join(shown, " "));
      });
}

void option_binder::log_levels(const option_text& option, std::optional<log_options>& value) {
  add(option, {""}, [&value, title = title_of(option)](const std::string& text) {
    try {
      value = parse_log_levels(text);
    } catch (const error& e) {
      throw error(e.code(), fmt::format("{} takes levels like info or warning,loader=debug: {}", title, e.what()));
    }
  });
}

void option_binder::help() {
  explain(app_.set_help_flag("-h,--help"), {"-h,--help", "", "this text"}, {"", ""});
}

void option_binder::positionals(const std::string& name, std::vector<std::string>& values) {
  app_.add_option(name, values);
}

std::vector<bound_option> declare_options(CLI::App& app, const option_declaration& bind, std::string& config) {
  option_binder binder(app);
  bind(binder);
  binder.group("General");
  binder.text({"--config", "FILE|NAME",
               "options from a TOML file; NAME stands for configs/NAME.toml here, beside the program or in the user's "
               "configuration directory"},
              config);
  binder.help();
  return binder.bound();
}

} // namespace tropilla::app
