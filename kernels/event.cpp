// Implements events: a flag to wait for, and the functions to call when it is set.
#include "kernels/device.hpp"

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace tropilla {

struct event::state {
  std::atomic<std::uint32_t> done = 0; ///< set once; a word that the system can wait on
  std::mutex mutex;                    ///< guards the callbacks, and the order of completing and adding one
  std::function<void()> first;         ///< nearly always the only one, and so without a list to allocate
  std::vector<std::function<void()>> more;
};

event event::make() {
  return event(std::make_shared<state>());
}

bool event::done() const {
  return state_ == nullptr || state_->done.load(std::memory_order_acquire) != 0;
}

void event::wait() const {
  if (state_ != nullptr)
    state_->done.wait(0, std::memory_order_acquire);
}

void event::then(std::function<void()> f) const {
  if (!done()) {
    const std::lock_guard lock(state_->mutex);
    if (!done()) {
      if (state_->first == nullptr)
        state_->first = std::move(f);
      else
        state_->more.push_back(std::move(f));
      return;
    }
  }
  f();
}

void event::complete() const {
  if (state_ == nullptr)
    return;
  std::function<void()> first;
  std::vector<std::function<void()>> more;
  {
    const std::lock_guard lock(state_->mutex);
    // Sequentially consistent: notifying first looks whether anyone waits, which must not come before the store.
    state_->done.store(1, std::memory_order_seq_cst);
    first.swap(state_->first);
    more.swap(state_->more);
  }
  state_->done.notify_all();
  if (first != nullptr)
    first();
  for (const auto& f : more)
    f();
}

} // namespace tropilla
