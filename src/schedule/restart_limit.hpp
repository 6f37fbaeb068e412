/// How often what ends is replaced before its cause counts as one that a new start does not remove.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace tropilla {

/// Counts new starts since something was computed. Not for several threads at once.
class restart_limit {
public:
  static constexpr std::size_t max = 8;

  /// Counts one more. `progress`: a number that changes whenever something was computed. False when there were `max`.
  [[nodiscard]] bool allows_another(std::uint64_t progress) noexcept {
    if (std::exchange(progress_, progress) != progress)
      starts_ = 0;
    if (starts_ == max)
      return false;
    ++starts_;
    return true;
  }
  /// New starts without progress.
  [[nodiscard]] std::size_t starts() const noexcept { return starts_; }

private:
  std::uint64_t progress_ = 0;
  std::size_t starts_ = 0;
};

} // namespace tropilla
