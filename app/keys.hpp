/// Decodes what comes from a terminal's keyboard: pasted text, and lines that are not shown while they are typed.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla::app {

/// Pasted text, as a terminal marks it (bracketed paste, mode 2004 of xterm's control sequences).
class pasted_text {
public:
  static constexpr std::string_view begin_mark = "\x1b[200~";
  static constexpr std::string_view end_mark = "\x1b[201~";

  /// Takes the next byte behind the begin mark; true: it was the last one of the end mark.
  [[nodiscard]] bool take(char byte);
  /// The text so far as a message has it: every line end is \n, other control characters than tabs are left out, and
  /// what is not UTF-8 becomes U+FFFD.
  [[nodiscard]] std::string text() const;
  /// The bytes from which another `pasted_text` gets as far as this one.
  [[nodiscard]] std::string so_far() const { return std::string(begin_mark) + bytes_; }

private:
  std::string bytes_;
};

/// "[pasted 120 lines]" in place of a text that fills more than half of a window; empty for one that does not.
[[nodiscard]] std::string name_of_long_paste(std::string_view text, std::size_t columns, std::size_t rows);

/// A line that is typed while nothing shows it. Keys that take something back are obeyed (Backspace, Ctrl-W, Ctrl-U),
/// other keys than text are ignored; a pasted text is a part of the line, with its line ends.
class unseen_line {
public:
  enum class event { none, line, closed };

  /// Takes a byte. `line`: Enter, and `take_line` has it. `closed`: Ctrl-D on an empty line.
  [[nodiscard]] event take(char byte);
  /// The line that Enter ended; what comes now is the next one.
  [[nodiscard]] std::string take_line();
  /// Keys that give an editor what was typed of a line without an end, and leave nothing here.
  [[nodiscard]] std::string take_keys();

private:
  event type(char byte);
  void take_back_character();
  void take_back_word();

  std::string text_;
  std::string escape_; ///< an escape sequence that is not complete
  std::optional<pasted_text> paste_;
};

} // namespace tropilla::app
