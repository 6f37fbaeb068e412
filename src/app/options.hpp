/// Options: what commands share, and how command line, environment and file are layered.
///
/// Order: command line > TROPILLA_* environment > the file of --config > defaults. An option `--top-k` is
/// `TROPILLA_TOP_K` in the environment and `top-k` in the file, at its top or in the table of one command ([bench]),
/// which wins over the top.
#pragma once

#include "tropilla/runtime.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace CLI {
class App;
class Option;
} // namespace CLI

namespace tropilla::app {

/// Binds options to fields. `names` are as CLI11 reads them ("-n,--max-tokens"). Values are checked strictly when they
/// are set: `error` (invalid_argument) names the option, the range and what was found.
class option_binder {
public:
  explicit option_binder(CLI::App& app) : app_(app) {}

  void flag(const std::string& names, bool& value);
  /// `given`, when there, tells an empty text from none.
  void text(const std::string& names, std::string& value, bool* given = nullptr);
  void count(const std::string& names, std::size_t& value, std::size_t least = 0,
             std::size_t most = std::numeric_limits<std::size_t>::max());
  void number(const std::string& names, double& value, double least, double most);
  /// "300MiB", with devices "host:0=300MiB,host:1=1GiB", or a device alone, "cuda:0": 0 bytes, what the plan needs.
  void device_bytes(const std::string& names, std::vector<device_budget>& values);
  /// "300MiB".
  void bytes(const std::string& names, std::size_t& value);
  /// One of some words; `""` in `words` stands for the default and is not offered.
  void choice(const std::string& names, std::string& value, std::vector<std::string> words);
  /// Texts, one each time that the option is given, with \n, \t, \r, \\ and \xHH for what is hard to type. In a file a
  /// text or an array of them; in the environment one.
  void texts(const std::string& names, std::vector<std::string>& values);
  /// Words without a name, in order.
  void positionals(const std::string& name, std::vector<std::string>& values);

private:
  void add(const std::string& names, std::function<void(const std::string&)> set);
  CLI::App& app_;
};

/// The value of an environment variable, or null. Tests pass their own.
using environment_lookup = std::function<const char*(const char*)>;

/// What a command line is parsed against.
struct option_context {
  std::string command;                 ///< "bench"
  std::vector<std::string> known_keys; ///< the long options of all commands: others in a file are mistakes
  environment_lookup environment;      ///< empty: the process's
};

/// Thrown when the command line has -h or --help.
struct help_requested {};

/// Parses `arguments` (without program and command), then fills what they left open.
/// `bind` declares the command's options; -h, --help and --config are added. Throws `error` and `help_requested`.
void parse_options(const std::function<void(option_binder&)>& bind, std::span<const std::string> arguments,
                   const option_context& context);

/// The long names that `bind` declares, without dashes.
[[nodiscard]] std::vector<std::string> long_options(const std::function<void(option_binder&)>& bind);

/// The file that --config names: a path, or NAME for configs/NAME.toml here, beside the program or in the user's
/// configuration directory. Throws `error` (io_error) with the places that were tried.
[[nodiscard]] std::string find_config_file(const std::string& name, const environment_lookup& environment);

/// A value of a file as option text: one, but for an array.
struct config_value {
  std::vector<std::string> texts;
  bool array = false;
};

/// Keys and values of a file: those at the top, then those of the table [command]. Throws `error`: io_error,
/// malformed_file (syntax, with line and column; unknown keys; values that are neither scalars nor arrays of them).
[[nodiscard]] std::vector<std::pair<std::string, config_value>> read_config_file(const std::string& path,
                                                                                 const option_context& context);

/// `text` with \n, \t, \r, \\ and \xHH as what they stand for. Throws `error` (invalid_argument) naming `title`.
[[nodiscard]] std::string unescape(const std::string& text, const std::string& title);

/// Which model runs, and how.
struct model_options {
  std::string model;
  std::size_t threads = 0;
  std::size_t context = 0;
  std::size_t parallel = 0;  ///< sequences that are computed together; 0: as the command does
  std::size_t kv_tokens = 0; ///< of all sequences
  std::string kv_type;
  std::vector<device_budget> budget;
  std::size_t pinned = 0;
  bool precise = false;
  bool quiet = false; ///< no progress
  bool no_cache = false;
  std::string io;
  std::string isa;
  std::string chat_template;
  std::string trace;

  void bind(option_binder& binder);
  /// For so many sequences at once unless --parallel says otherwise. Throws `error` (invalid_argument) when no model
  /// was named, saying how to.
  [[nodiscard]] runtime_config to_config(std::size_t sequences = 1) const;
};

/// Throws `error` (invalid_argument) when `model` is empty, saying how to name one.
void require_model(const std::string& model);

/// How a reply is drawn.
struct reply_options {
  generation_options generation;

  void bind(option_binder& binder);
};

} // namespace tropilla::app
