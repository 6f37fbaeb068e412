/// Lines that a person types while the program is busy with something else.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>

namespace tropilla::app {

/// Reads lines from a terminal, on a thread of its own, for as long as it lives. The terminal stays in its usual mode:
/// it shows what is typed and hands over whole lines. What is not yet a line at the end is still the terminal's, and
/// comes to whoever reads next. In the background nothing is read, so the program is not stopped for it.
class line_watcher {
public:
  /// Called on the watcher's thread; must not throw.
  struct handlers {
    std::function<void(const std::string& line)> line; ///< without its line end
    std::function<void()> closed;                      ///< Ctrl-D on an empty line, or there is no terminal any more
  };

  /// `begun` is how the first line begins, and afterwards what was read of a line without an end: keys that came
  /// before the terminal was in its usual mode. It belongs to the watcher as long as that lives.
  /// Throws `error` (io_error) when the system has no descriptor left.
  line_watcher(int terminal, std::string& begun, handlers h);
  /// Waits for a handler that is running; none is called afterwards.
  ~line_watcher();
  line_watcher(const line_watcher&) = delete;
  line_watcher& operator=(const line_watcher&) = delete;

private:
  void watch();
  void feed(std::string_view bytes);
  [[nodiscard]] bool in_foreground() const noexcept;

  int terminal_;
  std::string& begun_;
  handlers handlers_;
  int stop_;
  std::thread thread_;
};

} // namespace tropilla::app
