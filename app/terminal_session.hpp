/// Holds the terminal while a conversation uses it, and gives it back as it was.
#pragma once

namespace tropilla::app {

/// Remembers the terminal's mode, asks it to mark pasted text (bracketed paste: mode 2004 of xterm's control
/// sequences), and gives it back as it was: when it is destroyed, before a signal ends the program (SIGTERM, SIGHUP,
/// SIGQUIT, a crash), and while Ctrl-Z has stopped it. A line editor may set modes meanwhile; the mode that held before
/// a stop comes back with the foreground. One per program, made before anything changes the mode.
class terminal_session {
public:
  explicit terminal_session(int terminal);
  ~terminal_session();
  terminal_session(const terminal_session&) = delete;
  terminal_session& operator=(const terminal_session&) = delete;

  /// A descriptor that is readable after the window changed its size or the program came back to the foreground.
  [[nodiscard]] int changes() const noexcept { return changes_; }
  /// Makes `changes` unreadable until the next one. True: the program came back, and others have written to the screen.
  bool take_changes() const noexcept;

  /// Gives the terminal back at once, where the program ends without destructors. Any thread, any signal handler; does
  /// nothing without a session.
  static void give_back() noexcept;
  /// Takes the terminal again after a stop, if the program is in the foreground. As `give_back`.
  static void take_again() noexcept;

private:
  int changes_;
};

/// Keeps keys that are typed while it lives from appearing on the screen; the next reader gets them. For a time in
/// which nothing reads, within a session, which undoes it where the program ends. Does nothing without a session, and
/// where keys are not shown anyway.
class unshown_keys {
public:
  explicit unshown_keys(int terminal);
  ~unshown_keys();
  unshown_keys(const unshown_keys&) = delete;
  unshown_keys& operator=(const unshown_keys&) = delete;

private:
  int terminal_ = -1; ///< -1: nothing was changed
};

} // namespace tropilla::app
