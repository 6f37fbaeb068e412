// Calls a registered reclaimer, and ends its registration.
#include "memory/reclaim_entry.hpp"

namespace tropilla {

std::size_t reclaim_registration::entry::give_back(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (over_)
      return 0;
    inside_ = std::this_thread::get_id();
  }
  const std::size_t given = ask(bytes);
  const std::lock_guard lock(mutex_);
  inside_ = {};
  left_.notify_all();
  return given;
}

void reclaim_registration::entry::end() noexcept {
  std::unique_lock lock(mutex_);
  over_ = true;
  left_.wait(lock, [this] { return inside_ == std::thread::id() || inside_ == std::this_thread::get_id(); });
}

reclaim_registration::~reclaim_registration() {
  reset();
}

reclaim_registration& reclaim_registration::operator=(reclaim_registration&& other) noexcept {
  if (this != &other) {
    reset();
    entry_ = std::move(other.entry_);
  }
  return *this;
}

void reclaim_registration::reset() noexcept {
  if (!entry_)
    return;
  entry_->end();
  entry_.reset();
}

} // namespace tropilla
