/// The screen of a conversation: the model's words, and the program's lines between them.
#pragma once

#include "app/terminal.hpp"

#include <cstddef>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>

namespace tropilla::app {

/// Rows of the window of standard output.
[[nodiscard]] std::size_t window_height();

/// Control codes that move the cursor up by some rows, to the start of a line, and clear the screen from there on.
[[nodiscard]] std::string clear_rows_above(std::size_t rows);

/// Keeps an answer's pieces and the program's own lines apart. The model's words go to standard output; the program's
/// lines are dimmed there where a person reads them, and else go to standard error. Any thread.
class chat_screen {
public:
  /// `person`: the reader is the person who types.
  chat_screen(output& out, bool person);

  [[nodiscard]] const terminal_facts& facts() const noexcept { return facts_; }
  [[nodiscard]] bool person() const noexcept { return person_; }

  /// Shows a piece of the answer. Throws as `output::write`.
  void show(std::string_view piece);
  /// Shows whole lines that are not the model's words. Throws as `output::write`.
  void tell(std::string_view text);
  /// Writes text as it is, line ends included, that a person is to see as if typed. Throws as `output::write`.
  void write(std::string_view text);
  /// Shows what went wrong.
  void complain(const std::exception& e);
  /// Ends a line that an answer left open. Throws as `output::write`.
  void end_line();

private:
  void break_line(); ///< call with the mutex held

  output& out_;
  terminal_facts facts_;
  bool person_;
  std::mutex mutex_;
  bool at_line_start_ = true;
};

} // namespace tropilla::app
