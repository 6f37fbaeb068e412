// A queue of calls, threads that make them, and a thread that watches whether these are enough.
#include "runtime/callback_threads.hpp"

#include "kernels/threads.hpp"
#include "tropilla/error.hpp"

#include <utility>

namespace tropilla {
namespace {

/// How long a call may wait for a thread before it gets another one.
constexpr std::chrono::milliseconds patience{10};
/// Without a call the watching thread sleeps until the next post.
constexpr std::size_t idle_looks = 100;

} // namespace

callback_threads::~callback_threads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  posted_.notify_all();
  watched_.notify_all();
  if (watcher_.joinable())
    watcher_.join(); // nobody adds workers from here on
  workers_.clear();  // joins
}

void callback_threads::post(std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  if (workers_.empty()) {
    add_worker();
    watcher_ = start_thread("callbacks", [this] { watch(); });
  }
  calls_.push_back({std::move(call), clock::now()});
  posted_.notify_one();
  if (!std::exchange(watching_, true))
    watched_.notify_one();
}

/// @pre `mutex_` is held.
void callback_threads::add_worker() {
  workers_.push_back(start_thread("callbacks", [this] { work(); }));
}

void callback_threads::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++free_workers_;
    posted_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
    --free_workers_;
    if (calls_.empty())
      return;
    const auto call = std::move(calls_.front().call);
    calls_.pop_front();
    lock.unlock();
    call();
    lock.lock();
  }
}

void callback_threads::watch() {
  std::unique_lock lock(mutex_);
  for (std::size_t idle = 0;;) {
    watched_.wait(lock, [this] { return stopping_ || watching_; });
    if (stopping_ && calls_.empty())
      return;
    if (!calls_.empty() && free_workers_ == 0 && workers_.size() < max_threads &&
        clock::now() - calls_.front().posted >= patience)
      try {
        add_worker();
      } catch (const error&) { // those that are there come to it later
      }
    idle = calls_.empty() ? idle + 1 : 0;
    watching_ = idle < idle_looks;
    if (watching_)
      watched_.wait_for(lock, patience, [this] { return stopping_ && calls_.empty(); });
  }
}

} // namespace tropilla
