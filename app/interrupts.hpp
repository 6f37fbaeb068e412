/// Turns Ctrl-C from a signal into calls on a thread of the program. The library has no signal handlers; this is the
/// command line's.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace tropilla::app {

/// Receives SIGINT for the whole process. One per program, made before any other thread (they inherit the mask).
class interrupts {
public:
  /// Gets the number of the press since the handler was set: 1, 2, ... Called on the watcher's thread.
  using handler = std::function<void(int press)>;

  interrupts();
  ~interrupts();
  interrupts(const interrupts&) = delete;
  interrupts& operator=(const interrupts&) = delete;

  /// The time that Ctrl-C may go unanswered where all that is left to do is to end.
  static constexpr std::chrono::seconds patience{5};

  /// While it lives, Ctrl-C calls `h` instead of ending the program with status 130. With `quits_after`, a second press
  /// ends the program at once, and so does that time after the first, with a sentence. Nests; once destroyed, its
  /// handler runs no more.
  class scope {
  public:
    scope(interrupts& owner, handler h, std::chrono::seconds quits_after = {});
    ~scope();
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

  private:
    interrupts& owner_;
    std::shared_ptr<handler> previous_;
    int previous_presses_;
    std::chrono::seconds previous_patience_;
  };

  /// Ends the program at once with status 130, as shells expect after Ctrl-C.
  [[noreturn]] static void quit() noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// Thrown by a command that stopped because of Ctrl-C: the program ends with status 130.
struct interrupted {};

} // namespace tropilla::app
