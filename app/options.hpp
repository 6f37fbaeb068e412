/// Declares the options that commands share, and layers command line, environment and file.
///
/// Order: command line > TROPILLA_* environment > the file of --config > defaults. An option `--top-k` is
/// `TROPILLA_TOP_K` in the environment and `top-k` in the file, at its top or in the table of one command ([bench]),
/// which wins over the top.
#pragma once

#include "app/log_output.hpp"
#include "app/option_binder.hpp"
#include "tropilla/runtime.hpp"

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace tropilla::app {

struct command_context;

/// The value of an environment variable, or null. Tests pass their own.
using environment_lookup = std::function<const char*(const char*)>;

/// The context that a command line is parsed in.
struct option_context {
  std::string command;                 ///< "bench"
  std::vector<std::string> known_keys; ///< the long options of all commands: others in a file are mistakes
  environment_lookup environment;      ///< empty: the process's
};

/// Thrown when the command line has -h or --help.
struct help_requested {};

/// Results of parsing a command line beside its options' values.
struct parsed_options {
  bool quiet = false;               ///< --quiet or --json: nothing but what was asked for, and errors
  std::vector<std::string> notices; ///< of options that other programs know and that change nothing here
};

/// Parses `arguments` (without program and command), then fills what they left open.
/// `bind` declares the command's options; -h, --help and --config are added. Names that other programs use for an
/// option are taken for it (`find_foreign_option`), on the command line, in the environment and in a file. Throws
/// `error` and `help_requested`.
parsed_options parse_options(const option_declaration& bind, std::span<const std::string> arguments,
                             const option_context& context);

/// The long names that `bind` declares, without dashes.
[[nodiscard]] std::vector<std::string> long_options(const option_declaration& bind);

/// Finds the file that --config names: a path, or NAME for configs/NAME.toml here, beside the program or in the user's
/// configuration directory. Throws `error` (io_error) with the places that were tried.
[[nodiscard]] std::string find_config_file(const std::string& name, const environment_lookup& environment);

/// A value of a file as option texts: one, unless it is an array.
struct config_value {
  std::vector<std::string> texts;
  bool array = false;
};

/// Reads keys and values of a file: those at the top, then those of the table [command]. Throws `error`: io_error,
/// malformed_file (syntax, with line and column; unknown keys; values that are neither scalars nor arrays of them).
[[nodiscard]] std::vector<std::pair<std::string, config_value>> read_config_file(const std::string& path,
                                                                                 const option_context& context);

/// The text of --help about -m in every command.
constexpr const char* model_meaning = "a GGUF file (any part of a split one), or the name of a model that `tropilla "
                                      "models` lists, or a part of that";
constexpr const char* model_otherwise = "the one that scripts/run.sh obtained";

/// Options that say which model runs, and how.
struct model_options {
  /// As it was typed: `model` may be a name, `trace` begin with ~, and `sequences` be 0, which is what the command
  /// does.
  runtime_config config{.sequences = 0};
  bool quiet = false; ///< no progress
  bool no_cache = false;
  std::string context_otherwise = "the model's, at most 4096"; ///< for --help: what the command does without --ctx
  std::string parallel_otherwise = "1";                        ///< and without --parallel
  log_settings log;

  void bind(option_binder& binder);
  /// `config` with the paths that it means, for so many sequences at once unless --parallel says otherwise. Throws what
  /// `choose_model` throws.
  [[nodiscard]] runtime_config to_config(const command_context& env, std::size_t sequences = 1) const;
};

/// Tokens of a sequence that the model of a configuration may be opened with; fewer, where it takes no more.
[[nodiscard]] std::size_t max_context(const runtime_config& config) noexcept;

/// Options that say how a reply is drawn.
struct reply_options {
  generation_options generation;
  bool seed_drawn = false; ///< by --seed -1

  void bind(option_binder& binder);
};

} // namespace tropilla::app
