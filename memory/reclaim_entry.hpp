// What a registration shares with the arbiter: internal to it.
#pragma once

#include "memory/reclaim.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>

namespace tropilla {

/// No lock is held while the reclaimer runs: it may let go of leases, and those may lead into another reclaimer.
struct reclaim_registration::entry {
  reclaimable what{};
  reclaimer ask;

  [[nodiscard]] std::size_t give_back(std::size_t bytes);
  /// It is not called any more. Waits for the thread that is in it, unless that is this one.
  void end() noexcept;

private:
  std::mutex mutex_;
  std::condition_variable left_;
  std::thread::id inside_; ///< who runs the reclaimer
  bool over_ = false;
};

} // namespace tropilla
