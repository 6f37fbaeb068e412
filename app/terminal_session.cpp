// Saves and restores the terminal's mode. Its signal handlers only call what POSIX allows them to: a killed program
// can't restore it later.
#include "app/terminal_session.hpp"

#include "app/files.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string_view>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

namespace tropilla::app {
namespace {

constexpr std::array ending{SIGTERM, SIGHUP, SIGQUIT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
constexpr std::array passing{SIGTSTP, SIGCONT, SIGWINCH};
constexpr std::string_view mark_pastes = "\x1b[?2004h";
constexpr std::string_view unmarked_pastes = "\x1b[?2004l";

enum class holder : std::uint8_t { nobody, program, shell };

/// State for the signal handlers, which have no other way to it. Written before the handlers are installed.
struct shared {
  std::atomic<holder> held_by{holder::nobody};
  int terminal = -1;
  int changes = -1;
  termios before{};  ///< the session
  termios stopped{}; ///< what held when it was given to the shell
  std::array<struct sigaction, ending.size()> ends{};
  std::array<struct sigaction, passing.size()> passes{};
};
shared state; // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): see above
static_assert(std::atomic<holder>::is_always_lock_free);

bool in_foreground() noexcept {
  return ::tcgetpgrp(state.terminal) == ::getpgrp();
}

void set_mode(const termios& mode) noexcept {
  while (::tcsetattr(state.terminal, TCSANOW, &mode) != 0 && errno == EINTR) {
  }
}

void send(std::string_view sequence) noexcept {
  const ssize_t n = ::write(state.terminal, sequence.data(), sequence.size());
  static_cast<void>(n); // a terminal that is gone needs nothing
}

void give_to(holder next) noexcept {
  holder now = holder::program;
  if (!state.held_by.compare_exchange_strong(now, next))
    return;
  if (next == holder::shell)
    ::tcgetattr(state.terminal, &state.stopped);
  if (!in_foreground()) // another program has set its own mode
    return;
  send(unmarked_pastes);
  set_mode(state.before);
}

// Values that the eventfd adds up: changes of the window in the lower half, returns in the upper.
constexpr std::uint64_t resized = 1, came_back = std::uint64_t{1} << 32;

void tell(std::uint64_t change) noexcept {
  const ssize_t n = ::write(state.changes, &change, sizeof change);
  static_cast<void>(n);
}

const struct sigaction* former(int signal) noexcept {
  for (std::size_t i = 0; i < ending.size(); ++i)
    if (ending[i] == signal)
      return &state.ends[i];
  for (std::size_t i = 0; i < passing.size(); ++i)
    if (passing[i] == signal)
      return &state.passes[i];
  return nullptr;
}

/// Does what the signal would do without us, which may end the program.
void pass_on(int signal) noexcept {
  struct sigaction ours {};
  ::sigaction(signal, former(signal), &ours);
  sigset_t set, mask;
  sigemptyset(&set);
  sigaddset(&set, signal);
  ::raise(signal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, &mask); // here it happens
  ::pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  ::sigaction(signal, &ours, nullptr);
}

void handle(int signal) {
  const int before = errno;
  switch (signal) {
  case SIGWINCH:
    tell(resized);
    break;
  case SIGCONT:
    if (state.held_by == holder::program)
      tell(came_back); // after a stop that nothing can catch
    terminal_session::take_again();
    break;
  case SIGTSTP:
    give_to(holder::shell);
    pass_on(signal);
    terminal_session::take_again();
    break;
  default:
    terminal_session::give_back();
    pass_on(signal);
  }
  errno = before;
}

template <class Signals, class Actions>
void install(const Signals& signals, Actions& actions) {
  struct sigaction ours {};
  ours.sa_handler = &handle;
  ours.sa_flags = SA_RESTART;
  sigemptyset(&ours.sa_mask);
  for (std::size_t i = 0; i < signals.size(); ++i) {
    ::sigaction(signals[i], nullptr, &actions[i]);
    if (actions[i].sa_handler != SIG_IGN) // nohup, a shell without jobs
      ::sigaction(signals[i], &ours, nullptr);
  }
}

template <class Signals, class Actions>
void uninstall(const Signals& signals, const Actions& actions) {
  for (std::size_t i = 0; i < signals.size(); ++i)
    ::sigaction(signals[i], &actions[i], nullptr);
}

} // namespace

terminal_session::terminal_session(int terminal) : changes_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (changes_ < 0)
    throw_system_error("watch", "the terminal", errno);
  state.terminal = terminal;
  state.changes = changes_;
  if (::tcgetattr(terminal, &state.before) != 0) {
    ::close(changes_);
    throw_system_error("ask for the mode of", "the terminal", errno);
  }
  state.held_by = holder::program;
  install(ending, state.ends);
  install(passing, state.passes);
  send(mark_pastes);
}

terminal_session::~terminal_session() {
  give_back();
  uninstall(passing, state.passes);
  uninstall(ending, state.ends);
  state.held_by = holder::nobody;
  ::close(changes_);
}

bool terminal_session::take_changes() const noexcept {
  std::uint64_t sum = 0;
  return ::read(changes_, &sum, sizeof sum) == sizeof sum && sum >= came_back;
}

void terminal_session::give_back() noexcept {
  give_to(holder::nobody);
}

void terminal_session::take_again() noexcept {
  if (state.held_by != holder::shell || !in_foreground())
    return;
  set_mode(state.stopped);
  send(mark_pastes);
  state.held_by = holder::program;
  tell(came_back);
}

unshown_keys::unshown_keys(int terminal) {
  termios mode{};
  if (state.held_by != holder::program || ::tcgetattr(terminal, &mode) != 0 || (mode.c_lflag & ECHO) == 0)
    return;
  mode.c_lflag &= ~tcflag_t{ECHO};
  set_mode(mode);
  terminal_ = terminal;
}

unshown_keys::~unshown_keys() {
  termios mode{};
  if (terminal_ < 0 || ::tcgetattr(terminal_, &mode) != 0)
    return;
  mode.c_lflag |= ECHO;
  set_mode(mode);
}

} // namespace tropilla::app
