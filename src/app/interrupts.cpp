// A thread that reads a signalfd: nothing of ours ever runs inside a signal handler.
#include "src/app/interrupts.hpp"

#include "src/app/files.hpp"
#include "src/app/terminal_session.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace tropilla::app {

struct interrupts::impl {
  int signals = -1;
  int stop = -1;
  std::mutex mutex;
  std::shared_ptr<handler> current;
  int presses = 0;
  std::thread watcher;

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
      if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR)
        return;
      if (waits[1].revents != 0)
        return;
      signalfd_siginfo info{};
      if (waits[0].revents == 0 || ::read(signals, &info, sizeof info) != sizeof info)
        continue;
      const std::lock_guard lock(mutex);
      if (!current)
        quit();
      (*current)(++presses);
    }
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
  impl_->watcher = std::thread([i = impl_.get()] { i->watch(); });
}

interrupts::~interrupts() = default;

interrupts::scope::scope(interrupts& owner, handler h) : owner_(owner) {
  const std::lock_guard lock(owner.impl_->mutex);
  previous_ = std::exchange(owner.impl_->current, std::make_shared<handler>(std::move(h)));
  previous_presses_ = std::exchange(owner.impl_->presses, 0);
}

interrupts::scope::~scope() {
  const std::lock_guard lock(owner_.impl_->mutex);
  owner_.impl_->current = std::move(previous_);
  owner_.impl_->presses = previous_presses_;
}

void interrupts::quit() noexcept {
  terminal_session::give_back();
  std::_Exit(130);
}

} // namespace tropilla::app
