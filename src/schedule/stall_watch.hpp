/// Notices that nothing happens while something is waited for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace tropilla {

/// Counts looks, not time: a process that was stopped for an hour has not looked meanwhile. One thread.
class stall_watch {
public:
  /// @pre `patience` > 0
  explicit stall_watch(std::size_t patience) : patience_(patience) {}

  /// One look, at regular times. `wait` names what is waited for, `progress` counts up whenever anything happens that
  /// may end the wait. True when both are as they were for more than `patience` looks.
  [[nodiscard]] bool look(std::uint64_t wait, std::uint64_t progress) noexcept {
    const bool other_wait = std::exchange(wait_, wait) != wait;
    const bool moved = std::exchange(progress_, progress) != progress;
    unchanged_ = other_wait || moved ? 0 : unchanged_ + 1;
    return unchanged_ >= patience_;
  }

private:
  std::size_t patience_, unchanged_ = 0;
  std::uint64_t wait_ = 0, progress_ = 0;
};

} // namespace tropilla
