// Reads a signalfd on a thread: nothing of ours ever runs inside a signal handler.
#include "app/interrupts.hpp"

#include "app/files.hpp"
#include "app/terminal.hpp"
#include "app/terminal_session.hpp"
#include "kernels/threads.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <fmt/format.h>
#include <mutex>
#include <optional>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace tropilla::app {

struct interrupts::impl {
  using clock = std::chrono::steady_clock;

  int signals = -1;
  int stop = -1;
  std::mutex mutex;
  std::shared_ptr<handler> current;
  int presses = 0;
  std::chrono::seconds quits_after{};
  std::optional<clock::time_point> quits_at; ///< unless the scope ends before
  std::jthread watcher;

  ~impl() {
    if (watcher.joinable()) {
      const std::uint64_t one = 1;
      if (::write(stop, &one, sizeof one) == sizeof one)
        watcher.join();
      else
        watcher.detach();
    }
    if (signals >= 0)
      ::close(signals);
    if (stop >= 0)
      ::close(stop);
  }

  void watch() {
    std::array<pollfd, 2> waits{pollfd{signals, POLLIN, 0}, pollfd{stop, POLLIN, 0}};
    for (;;) {
      if (::poll(waits.data(), waits.size(), time_left()) < 0 && errno != EINTR)
        return;
      if (waits[1].revents != 0)
        return;
      signalfd_siginfo info{};
      if (waits[0].revents == 0 || ::read(signals, &info, sizeof info) != sizeof info)
        continue;
      const std::lock_guard lock(mutex);
      if (!current)
        quit();
      if (quits_at)
        quit();
      if (quits_after.count() > 0)
        quits_at = clock::now() + quits_after;
      (*current)(++presses);
    }
  }

  /// Milliseconds until the program ends by itself, or -1. Ends it when there are none.
  int time_left() {
    const std::lock_guard lock(mutex);
    if (!quits_at)
      return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*quits_at - clock::now());
    if (left.count() <= 0) {
      say(fmt::format("tropilla: nothing ended within {} seconds of Ctrl-C; the program ends", quits_after.count()));
      quit();
    }
    return static_cast<int>(left.count());
  }
};

interrupts::interrupts() : impl_(std::make_unique<impl>()) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  if (const int failed = ::pthread_sigmask(SIG_BLOCK, &set, nullptr))
    throw_system_error("block", "SIGINT", failed);
  impl_->signals = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  impl_->stop = ::eventfd(0, EFD_CLOEXEC);
  if (impl_->signals < 0 || impl_->stop < 0)
    throw_system_error("watch", "SIGINT", errno);
  impl_->watcher = start_thread("Ctrl-C", [i = impl_.get()] { i->watch(); });
}

interrupts::~interrupts() = default;

interrupts::scope::scope(interrupts& owner, handler h, std::chrono::seconds quits_after) : owner_(owner) {
  const std::lock_guard lock(owner.impl_->mutex);
  previous_ = std::exchange(owner.impl_->current, std::make_shared<handler>(std::move(h)));
  previous_presses_ = std::exchange(owner.impl_->presses, 0);
  previous_patience_ = std::exchange(owner.impl_->quits_after, quits_after);
  owner.impl_->quits_at.reset();
}

interrupts::scope::~scope() {
  const std::lock_guard lock(owner_.impl_->mutex);
  owner_.impl_->current = std::move(previous_);
  owner_.impl_->presses = previous_presses_;
  owner_.impl_->quits_after = previous_patience_;
  owner_.impl_->quits_at.reset();
}

void interrupts::quit() noexcept {
  terminal_session::give_back();
  std::_Exit(130);
}

} // namespace tropilla::app
