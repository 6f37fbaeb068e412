/// Tells what standard output and standard error are connected to, and shows progress on the latter.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unistd.h>

namespace tropilla::app {

/// Facts about one of the standard streams.
struct terminal_facts {
  bool interactive = false; ///< a terminal that can move its cursor (not TERM=dumb)
  bool colour = false;      ///< interactive, and NO_COLOR is not set (https://no-color.org)
  bool utf8 = false;        ///< the locale's characters
  std::size_t width = 80;   ///< columns

  [[nodiscard]] std::string bold(std::string_view text) const { return paint("1", text); }
  [[nodiscard]] std::string dim(std::string_view text) const { return paint("2", text); }
  [[nodiscard]] std::string green(std::string_view text) const { return paint("32", text); }
  [[nodiscard]] std::string red(std::string_view text) const { return paint("31", text); }
  [[nodiscard]] std::string paint(std::string_view code, std::string_view text) const;
};

[[nodiscard]] terminal_facts inspect_terminal(int descriptor);

/// Control codes that bring the cursor of a terminal of `width` columns to the start of a line: of a new one, unless it
/// is at a start. For when keys were echoed meanwhile, and only the terminal knows where the cursor is.
[[nodiscard]] std::string fresh_line(std::size_t width);

/// Standard output, checked: a script must learn that its file is incomplete. One thread.
class output {
public:
  /// Throws `output_closed` when the reader went away, `error` (io_error) when the disk is full and the like, or when
  /// there was none from the start.
  void write(std::string_view text) const;

  /// Call before anything else: puts /dev/null in the place of standard streams that are closed, which the next file to
  /// be opened would take otherwise, and remembers that there is no standard output.
  void claim_standard_streams();

private:
  bool closed_ = false;
};

/// Thrown when the reader of standard output went away (`| head`): the program ends quietly.
struct output_closed {};

/// Writes whole lines to standard error; failures there are ignored, since they can't be reported.
void say(std::string_view line);

/// Writes all of `text`; false when the descriptor does not take all of it, and `errno` says why.
[[nodiscard]] bool write_all(int descriptor, std::string_view text);

/// Writes to standard error while something else may be on the screen: a bar that is drawn and drawn again, a reply
/// that streams. Any thread.
class status_line {
public:
  status_line() : terminal_(inspect_terminal(STDERR_FILENO)) {}
  status_line(const status_line&) = delete;
  status_line& operator=(const status_line&) = delete;

  [[nodiscard]] const terminal_facts& terminal() const noexcept { return terminal_; }
  /// Shows a bar, in the place of the one before. @pre a terminal
  void draw(std::string_view bar);
  /// Takes the bar away, if there is one.
  void clear();
  /// Writes a line at any moment: on a terminal it takes the bar away, which comes back when it is drawn again, and
  /// begins a new line where half a line of a reply stands.
  void say(std::string_view line);

private:
  void take_bar_away(); ///< call with the mutex held

  terminal_facts terminal_;
  std::mutex mutex_;
  bool drawn_ = false;
};

/// Shows progress: a bar on a terminal, a plain line now and then elsewhere. Any thread; silent when made so.
class progress {
public:
  /// `unit` says what is counted: bytes are shown as such.
  enum class unit : std::uint8_t { bytes, count };

  progress(std::string label, unit counted, bool silent, std::shared_ptr<status_line> place);
  /// Takes the bar away and says no more: after an error, how long the work took is of no interest.
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  /// `words` follow the numbers.
  void update(std::uint64_t done, std::uint64_t total, std::string_view words = {});
  /// Takes the bar away; elsewhere, says how long it took when the work was done. Later updates do nothing.
  void finish();

private:
  void draw(std::uint64_t done, std::uint64_t total, std::string_view words);
  [[nodiscard]] std::string amount(std::uint64_t done, std::uint64_t total) const;

  using clock = std::chrono::steady_clock;
  std::string label_;
  unit unit_;
  bool silent_;
  std::shared_ptr<status_line> place_;
  const terminal_facts& terminal_; ///< of the place
  std::mutex mutex_;
  clock::time_point begin_ = clock::now();
  clock::time_point next_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  bool finished_ = false;
};

} // namespace tropilla::app
