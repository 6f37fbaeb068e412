/// Lines from standard input: edited, with history, on a terminal; as they are from anything else.
#pragma once

#include "src/app/terminal.hpp"

#include <filesystem>
#include <memory>
#include <string>

namespace tropilla::app {

/// How reading a line ended.
enum class line_end {
  line,      ///< with Enter, or the last line of a file
  interrupt, ///< with Ctrl-C: what was typed is discarded
  closed,    ///< with Ctrl-D on an empty line, or at the end of the input
};

/// Reads lines through libedit: Emacs keys or what ~/.editrc says, arrow keys through the history, tab to complete
/// commands, Ctrl-R to search. One thread, one per program.
class line_editor {
public:
  /// `history` is where earlier sessions' lines are; an empty path keeps none. A file that can't be read is no error.
  explicit line_editor(std::filesystem::path history);
  ~line_editor();
  line_editor(const line_editor&) = delete;
  line_editor& operator=(const line_editor&) = delete;

  /// Shows `prompt` and waits. `line` has no line end, and is valid UTF-8 only where the input is.
  [[nodiscard]] line_end read(const std::string& prompt, std::string& line);
  /// The next line begins with `text`, which was typed before, as if it were typed now.
  void push_back(const std::string& text);
  /// Adds to the history and its file; empty lines and the one that was added last are not repeated.
  void remember(const std::string& line);

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla::app
