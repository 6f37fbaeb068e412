/// Reads lines that a person types while the program is busy with something else.
#pragma once

#include "app/keys.hpp"

#include <functional>
#include <string>
#include <string_view>
#include <thread>

namespace tropilla::app {

/// Reads lines from a terminal that neither shows keys nor waits for Enter (`line_editor` leaves it so), on a thread of
/// its own, for as long as it lives. In the background nothing is read, so the program is not stopped for it.
class line_watcher {
public:
  /// Called on the watcher's thread; must not throw.
  struct handlers {
    std::function<void(const std::string& line)> line; ///< without its line end; those of pasted text are in it
    std::function<void()> closed;                      ///< Ctrl-D on an empty line, or there is no terminal any more
  };

  /// `keys` were typed before. `unfinished` is how the first line begins, and afterwards what was typed of one without
  /// an end; it belongs to the watcher as long as that lives.
  /// Throws `error` (io_error) when the system has no descriptor left.
  line_watcher(int terminal, std::string keys, unseen_line& unfinished, handlers h);
  /// Waits for a handler that is running; none is called afterwards.
  ~line_watcher();
  line_watcher(const line_watcher&) = delete;
  line_watcher& operator=(const line_watcher&) = delete;

private:
  void watch(const std::string& keys);
  [[nodiscard]] bool feed(std::string_view bytes);
  [[nodiscard]] bool in_foreground() const noexcept;

  int terminal_;
  unseen_line& unfinished_;
  handlers handlers_;
  int stop_;
  std::jthread thread_;
};

} // namespace tropilla::app
