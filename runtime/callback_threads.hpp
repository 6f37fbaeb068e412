/// Threads on which clients are called, so that one that waits in its callback holds up nobody else's reply.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tropilla {

/// One thread calls all clients, as long as they are quick. Where a call has waited for a thread for 10 ms, another
/// thread is started, up to `max_threads`; all stay until the end.
class callback_threads {
public:
  static constexpr std::size_t max_threads = 64;

  callback_threads() = default;
  /// Waits until everything that was posted has been called.
  ~callback_threads();
  callback_threads(const callback_threads&) = delete;
  callback_threads& operator=(const callback_threads&) = delete;

  /// Has it called soon, in the order of the posts as far as threads are free. Any thread. `call` must not throw.
  /// Throws `error` (io_error) when the system refuses the first threads, and has forgotten the call then.
  void post(std::function<void()> call);

private:
  using clock = std::chrono::steady_clock;
  struct posted_call {
    std::function<void()> call;
    clock::time_point posted;
  };

  void work();
  void watch();
  void add_worker();

  std::mutex mutex_; ///< guards all of these but the watching thread
  std::condition_variable posted_, watched_;
  std::deque<posted_call> calls_;
  std::size_t free_workers_ = 0;
  bool watching_ = false; ///< the watching thread looks at the calls by itself
  bool stopping_ = false;
  std::vector<std::jthread> workers_;
  std::jthread watcher_; ///< sees calls that wait for a thread
};

} // namespace tropilla
