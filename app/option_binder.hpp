/// Declares a command's options once, for parsing, for --help and for docs/command-line.md.
#pragma once

#include "src/sampling/check.hpp"
#include "tropilla/log.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
} // namespace CLI

namespace tropilla::app {

/// The names of an option, and what --help and docs/command-line.md say of it.
struct option_text {
  std::string names;       ///< as CLI11 reads them: "-n,--max-tokens". The first long one is its key everywhere else
  std::string value;       ///< stands for its value: "N"; empty for a flag
  std::string meaning;     ///< a phrase without a full stop at its end: "tokens of the reply, at most"
  std::string otherwise{}; ///< the default in words, where the field's value does not say it: "all cores"
  std::string more{};      ///< Markdown: follows `meaning` on the page, which has room for it
};

/// An option as it was bound.
struct bound_option {
  option_text text;
  std::string group;     ///< its heading in --help
  std::string otherwise; ///< Markdown: the default as the page shows it
};

/// Stands for an empty list of texts, since nobody can type it.
inline constexpr std::string_view no_text("\0", 1);

/// The range of a whole number.
struct count_limits {
  std::size_t min = 0;
  std::size_t max = std::numeric_limits<std::size_t>::max();
  std::string minus_one{};    ///< what -1 stands for ("until the context is full"); empty: it is refused
  std::size_t minus_one_is{}; ///< the value that it gives
};

/// Binds options to fields, and explains them: --help shows the bound options in this order. Values are checked
/// strictly when they are set: `error` (invalid_argument) names the option, the range and what was found. The default
/// that --help shows is what the field holds when it is bound.
class option_binder {
public:
  explicit option_binder(CLI::App& app) : app_(app) {}

  /// Sets the heading in --help of the options that are bound from here on: "Sampling".
  void group(std::string title) { group_ = std::move(title); }

  void flag(const option_text& option, bool& value);
  /// `given`, when there, tells an empty text from none.
  void text(const option_text& option, std::string& value, bool* given = nullptr);
  void path(const option_text& option, std::filesystem::path& value);
  void count(const option_text& option, std::size_t& value, const count_limits& limits = {});
  void number(const option_text& option, double& value, const number_range& range);
  /// A whole number, or -1 for one that is drawn now, which sets `drawn`.
  void seed(const option_text& option, std::uint64_t& value, bool& drawn);
  /// "300MiB" or "80%", with devices "host:0=300MiB,host:1=50%", or a device alone, "cuda:0": 0 bytes, what the plan
  /// needs.
  void device_bytes(const option_text& option, std::vector<device_budget>& values);
  /// "300MiB".
  void bytes(const option_text& option, std::size_t& value);
  /// One of some words, which --help lists.
  void choice(const option_text& option, std::string& value, std::vector<std::string> words);
  /// Texts, one each time that the option is given, with \n, \t, \r, \\ and \xHH for characters that are hard to type.
  /// In a file a text or an array of them; in the environment one.
  void texts(const option_text& option, std::vector<std::string>& values);
  /// As `parse_log_levels` reads them.
  void log_levels(const option_text& option, std::optional<log_options>& value);
  /// -h and --help.
  void help();
  /// Words without a name, in order.
  void positionals(const std::string& name, std::vector<std::string>& values);

  /// The options with names so far, in the order in which they were bound.
  [[nodiscard]] const std::vector<bound_option>& bound() const noexcept { return bound_; }

private:
  /// The field's value as text and, where that differs, as Markdown.
  struct shown_value {
    std::string text;
    std::string on_page = text.empty() ? "none" : text;
  };
  CLI::Option& explain(CLI::Option* bound, const option_text& option, const shown_value& now);
  void add(const option_text& option, const shown_value& now, const std::function<void(const std::string&)>& set);

  CLI::App& app_;
  std::string group_ = "Options";
  std::vector<bound_option> bound_;
};

/// Declares a command's options.
using option_declaration = std::function<void(option_binder&)>;

/// `text` with \n, \t, \r, \\ and \xHH as what they stand for. Throws `error` (invalid_argument) naming `title`.
[[nodiscard]] std::string unescape(const std::string& text, const std::string& title);

/// Declares in `app` what `bind` does and what all commands have: -h, --help and --config, whose value is `config`.
/// Returns all of them.
std::vector<bound_option> declare_options(CLI::App& app, const option_declaration& bind, std::string& config);

/// The options that `bind` declares and those that all commands have, as --help shows them: under their headings, a
/// line or more for each, with its default; lines of at most `columns` columns.
[[nodiscard]] std::string option_help(const option_declaration& bind, std::size_t columns);

} // namespace tropilla::app
