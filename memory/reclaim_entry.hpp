// The state that a reclaim registration shares with the arbiter. Internal to the arbiter.
#pragma once

#include "memory/reclaim.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>

namespace tropilla {

/// One registered reclaimer. No lock is held while it runs: it may let go of leases, and those may lead into another
/// reclaimer.
struct reclaim_registration::entry {
  reclaimer ask;

  [[nodiscard]] std::size_t give_back(std::size_t bytes);
  /// Ends the registration: the reclaimer is not called any more. Waits for a thread that is in it, unless that is this
  /// one.
  void end() noexcept;

private:
  std::mutex mutex_;
  std::condition_variable left_;
  std::thread::id inside_; ///< the thread that runs the reclaimer
  bool over_ = false;
};

} // namespace tropilla
