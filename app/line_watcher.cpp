// Polls the terminal on a thread, and an eventfd that ends it.
#include "app/line_watcher.hpp"

#include "app/files.hpp"
#include "app/terminal_session.hpp"
#include "kernels/threads.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace tropilla::app {
namespace {

// Nothing tells a program that the shell put it in the foreground again, so it polls; the delay is too short to be
// noticed.
constexpr int background_poll_ms = 250;

} // namespace

line_watcher::line_watcher(int terminal, std::string keys, unseen_line& unfinished, handlers h)
    : terminal_(terminal), unfinished_(unfinished), handlers_(std::move(h)), stop_(::eventfd(0, EFD_CLOEXEC)) {
  if (stop_ < 0)
    throw_system_error("watch", "standard input", errno);
  try {
    thread_ = start_thread("the keyboard", [this, typed = std::move(keys)] { watch(typed); });
  } catch (...) {
    ::close(stop_);
    throw;
  }
}

line_watcher::~line_watcher() {
  const std::uint64_t one = 1;
  while (::write(stop_, &one, sizeof one) < 0 && errno == EINTR) {
  }
  thread_.join();
  ::close(stop_);
}

bool line_watcher::in_foreground() const noexcept {
  const pid_t owner = ::tcgetpgrp(terminal_);
  return owner < 0 || owner == ::getpgrp(); // < 0: not the terminal that controls the process
}

void line_watcher::watch(const std::string& keys) {
  // Between looking and reading, the shell may put the program in the background: then reading fails, and does not stop
  // the program.
  sigset_t background;
  sigemptyset(&background);
  sigaddset(&background, SIGTTIN);
  ::pthread_sigmask(SIG_BLOCK, &background, nullptr);

  if (!feed(keys))
    return;
  std::array<pollfd, 2> waits{pollfd{stop_, POLLIN, 0}, pollfd{terminal_, POLLIN, 0}};
  std::array<char, 4096> bytes{};
  for (;;) {
    const bool foreground = in_foreground();
    if (foreground)
      terminal_session::take_again(); // where no signal said so
    const int ready = ::poll(waits.data(), foreground ? 2 : 1, foreground ? -1 : background_poll_ms);
    if (ready < 0 && errno != EINTR)
      return;
    if (ready > 0 && waits[0].revents != 0)
      return; // a line that is there, too, is left for the next reader
    if (ready <= 0 || waits[1].revents == 0)
      continue;
    const ssize_t n = ::read(terminal_, bytes.data(), bytes.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN || !in_foreground()))
      continue;
    if (n <= 0)
      return handlers_.closed();
    if (!feed({bytes.data(), static_cast<std::size_t>(n)}))
      return;
  }
}

bool line_watcher::feed(std::string_view bytes) {
  for (const char byte : bytes) { // NOLINT(readability-use-anyofallof): what it calls is what it is for
    const auto event = unfinished_.take(byte);
    if (event == unseen_line::event::line)
      handlers_.line(unfinished_.take_line());
    if (event != unseen_line::event::closed)
      continue;
    handlers_.closed();
    return false;
  }
  return true;
}

} // namespace tropilla::app
