/// Defines what a command of the program is, and lists all of them.
#pragma once

#include "app/interrupts.hpp"
#include "app/options.hpp"
#include "app/process.hpp"
#include "app/terminal.hpp"
#include "tropilla/tropilla.hpp"

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// The context of a command: what it works with besides its options.
struct command_context {
  const process_clock& clock;
  interrupts& signals;
  output out;
  std::shared_ptr<status_line> status = std::make_shared<status_line>();
  bool quiet = false; ///< --quiet or --json was given

  /// A line on standard error about what is done otherwise than asked for, unless `quiet`.
  void note(std::string_view sentence) const;
  /// The model's file that -m names or, without -m, the default one, with a note (`app::choose_model`).
  [[nodiscard]] std::filesystem::path choose_model(const std::string& named) const;
};

/// The text of --help besides the options, which come from what is bound (`option_help`). Lines are broken to fit;
/// those that begin with a blank stay as they are.
struct help_page {
  std::string_view about;   ///< what the command does: a sentence or a few
  std::string_view usage;   ///< without "Usage:"; more lines begin with seven blanks
  std::string_view notes{}; ///< after the options
  std::string_view example; ///< its lines begin with two blanks
};

/// Thrown when the failure was already reported and the rest was done: status 2.
struct already_said {};

/// Thrown when all was done that could be, and some of it failed: a sentence on standard error, and status 3.
struct partial_failure {
  std::string sentence;
};

/// One of the words after `tropilla`. `bind` and `execute` share the options that `make_*` allocated.
struct command {
  std::string_view name;
  std::string_view summary; ///< for the overview
  help_page help;
  option_declaration bind;
  std::function<void(command_context&)> execute; ///< throws `error`, `interrupted`, `output_closed`, and those above
};

[[nodiscard]] command make_run();
[[nodiscard]] command make_chat();
[[nodiscard]] command make_batch();
[[nodiscard]] command make_tokenize();
[[nodiscard]] command make_detokenize();
[[nodiscard]] command make_inspect();
[[nodiscard]] command make_plan();
[[nodiscard]] command make_bench();
[[nodiscard]] command make_eval();
[[nodiscard]] command make_synth();
[[nodiscard]] command make_cache();
[[nodiscard]] command make_devices();
[[nodiscard]] command make_models();

/// All of them, in the order of the overview.
[[nodiscard]] std::vector<command> all_commands();

/// The long options of all commands, without dashes.
[[nodiscard]] std::vector<std::string> all_option_names();

/// The sentence of an error, with the option that changes what it speaks of, where there is one.
[[nodiscard]] std::string sentence_of(const error& e);

/// The whole --help of a command, in lines of at most `columns` columns.
[[nodiscard]] std::string help_text(const command& c, std::size_t columns);

/// Runs the program: `arguments` without its name. Returns the exit status: 0; 2 after an error, which is one sentence
/// on standard error; 3 where some of the requests failed, likewise; 130 after Ctrl-C; 141 when standard output was
/// closed by its reader.
[[nodiscard]] int run_program(const std::vector<std::string>& arguments, command_context& env);

/// Opens the runtime with a progress display on standard error, and with the log that the options ask for.
///
/// From the first byte that is packed until `wait`, Ctrl-C ends nothing by itself: a program that ended at once would
/// leave half of a packed file. The constructor and `check_interrupt` throw `interrupted` then; a second one ends it.
class loaded_runtime {
public:
  loaded_runtime(runtime_config config, const model_options& options, command_context& env);
  [[nodiscard]] runtime& get() noexcept { return runtime_; }
  /// Call before anything else is shown.
  void end_progress() { progress_->finish(); }
  void check_interrupt() const;
  /// Blocks until the weights are there. From here on Ctrl-C ends the program again.
  void wait();

private:
  std::shared_ptr<progress> progress_;
  std::shared_ptr<std::atomic<bool>> pressed_ = std::make_shared<std::atomic<bool>>(false);
  std::optional<interrupts::scope> hold_;
  runtime runtime_;
};

/// The highest mark of the arbiter, all devices together.
[[nodiscard]] std::size_t peak_bytes(const runtime& rt);

} // namespace tropilla::app
