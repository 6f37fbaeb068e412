/// Parses what a person types in `tropilla chat`: lines become messages or commands.
#pragma once

#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// Whether a line as a `line_editor` returns it has line ends inside: pasted lines are a message, in which nothing is a
/// command.
[[nodiscard]] bool is_pasted(std::string_view line) noexcept;

/// The largest message; longer ones are refused.
inline constexpr std::size_t max_message_bytes = std::size_t{1} << 20;

/// Puts lines together: a line that ends in a backslash goes on in the next, and """ opens a block that the next """
/// at the end of a line closes. Inside a block nothing has a meaning, backslashes included. One thread.
///
/// A message that is longer than `max_message_bytes` is cut behind them and one byte more, which shows that it was
/// longer.
class line_joiner {
public:
  /// Takes one line without its line end. Returns the message when it is complete.
  [[nodiscard]] std::optional<std::string> take(std::string_view line);
  /// Returns the message so far, complete or not, at the end of the input; empty when there is none.
  [[nodiscard]] std::string rest();
  /// Forgets an unfinished message.
  void clear() noexcept;
  [[nodiscard]] bool unfinished() const noexcept { return unfinished_; }

private:
  void add(std::string_view text);
  [[nodiscard]] std::optional<std::string> go_on();
  [[nodiscard]] std::string finish();

  std::string text_;
  bool block_ = false;
  bool unfinished_ = false;
};

/// The commands of the console.
enum class chat_command {
  message,
  help,
  system,
  clear,
  retry,
  undo,
  set,
  params,
  model,
  stats,
  memory,
  budget,
  save,
  load,
  quit
};

/// One complete input: a message for the model, or a command with the text after it.
struct chat_input {
  chat_command command = chat_command::message;
  std::string text;
};

/// A text that begins with one slash is a command; `//x` is the message `/x`. A block and pasted lines never are a
/// command, which the caller sees to. Throws `error` (invalid_argument) for an unknown command, naming the nearest.
[[nodiscard]] chat_input parse_chat_input(std::string_view text);

/// Takes lines that come while a reply streams: a few commands are obeyed at once, everything else waits until the
/// reply has ended. One thread at a time.
class typeahead {
public:
  /// Takes one line without its line end. Returns the command to obey at once (/memory, /budget, /stats, /quit);
  /// nothing when the line waits, as each line of a long message does. Throws as `parse_chat_input`: then the line is
  /// forgotten. @pre the message that is being answered is complete
  [[nodiscard]] std::optional<chat_input> take(std::string_view line);
  /// The line that has waited longest.
  [[nodiscard]] std::optional<std::string> next();

private:
  std::deque<std::string> lines_;
  line_joiner joiner_; ///< follows the lines that wait
};

/// Completions of a line that begins with `before`: the commands that begin so ("/sa"), and behind /set the names of
/// `settings` that do ("/set te").
[[nodiscard]] std::vector<std::string> complete_chat_line(std::string_view before,
                                                          std::span<const std::string> settings);

} // namespace tropilla::app
