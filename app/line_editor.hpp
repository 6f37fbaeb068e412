/// Reads lines from standard input: edited, with history, on a terminal; as they are from anything else.
#pragma once

#include "app/terminal_session.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// How reading a line ended.
enum class line_end {
  line,      ///< with Enter, or the last line of a file
  interrupt, ///< with Ctrl-C: what was typed is discarded
  closed,    ///< with Ctrl-D on an empty line, or at the end of the input
};

/// Completes the beginning of a line: returns longer beginnings, each at least as long as the given one.
using line_completion = std::function<std::vector<std::string>(std::string_view)>;

/// Reads lines through libedit: Emacs keys or what ~/.editrc says, arrow keys through the history, tab to complete,
/// Ctrl-R to search. A pasted text is a part of the line, with its line ends; a long one is shown as "[pasted 120
/// lines]". Between lines the terminal neither shows keys nor waits for Enter (a `line_watcher` reads them). One
/// thread, one per program.
class line_editor {
public:
  /// `terminal` is null where standard input and output are not a terminal that can be edited on. `history` is where
  /// earlier sessions' lines are; an empty path keeps none. A file that can't be read is no error.
  line_editor(const terminal_session* terminal, std::filesystem::path history, line_completion complete);
  ~line_editor();
  line_editor(const line_editor&) = delete;
  line_editor& operator=(const line_editor&) = delete;

  /// Shows `prompt`, in which codes without a width are between \1 and \1, and waits. `line` is valid UTF-8 where an
  /// editor reads it; it has line ends only where text was pasted, and none at its end. A byte order mark at the
  /// beginning of a file is dropped.
  [[nodiscard]] line_end read(const std::string& prompt, std::string& line);
  /// Hands the keys behind those of the last line over to the caller.
  [[nodiscard]] std::string take_keys();
  /// Makes the next line begin with these keys, which were typed before.
  void push_back(std::string_view keys);
  /// Adds a line to the history and its file, unless it is empty, very long, or the one that was added last.
  void remember(const std::string& line);

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla::app
