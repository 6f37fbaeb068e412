// Guards the screen with one mutex, and keeps track of the cursor.
#include "app/screen.hpp"

#include "app/command.hpp"
#include "app/text.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace tropilla::app {

std::size_t window_height() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

std::string clear_rows_above(std::size_t rows) {
  return (rows > 0 ? fmt::format("\x1b[{}A", rows) : "") + "\r\x1b[J";
}

chat_screen::chat_screen(output& out, bool person)
    : out_(out), facts_(inspect_terminal(STDOUT_FILENO)), person_(person) {}

void chat_screen::show(std::string_view piece) {
  if (piece.empty())
    return;
  const std::lock_guard lock(mutex_);
  at_line_start_ = piece.back() == '\n';
  out_.write(person_ || facts_.interactive ? without_controls(piece) : std::string(piece));
}

void chat_screen::tell(std::string_view text) {
  if (!person_)
    return say(text);
  const std::lock_guard lock(mutex_);
  break_line();
  out_.write(facts_.dim(text) + "\n");
}

void chat_screen::write(std::string_view text) {
  const std::lock_guard lock(mutex_);
  break_line();
  out_.write(text);
}

void chat_screen::complain(const std::exception& e) {
  const std::lock_guard lock(mutex_);
  break_line();
  const auto* ours = dynamic_cast<const error*>(&e);
  say(fmt::format("{} {}", facts_.red("tropilla:"), without_controls(ours ? sentence_of(*ours) : e.what())));
}

void chat_screen::end_line() {
  const std::lock_guard lock(mutex_);
  break_line();
}

void chat_screen::break_line() {
  if (!at_line_start_)
    out_.write("\n");
  at_line_start_ = true;
}

} // namespace tropilla::app
