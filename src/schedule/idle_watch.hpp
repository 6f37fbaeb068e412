/// Notices that nothing has happened for a while, once.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

namespace tropilla {

/// A plain class without a clock. One thread.
class idle_watch {
public:
  using clock = std::chrono::steady_clock;

  explicit idle_watch(clock::duration after) : after_(after) {}

  /// Looks: after whatever happened, and at `next_look`. `busy`: there are requests; `work` counts up while anything is
  /// read, computed or moved. True when neither was so for the whole time, once until something happens again.
  [[nodiscard]] bool look(bool busy, std::uint64_t work, clock::time_point now) noexcept {
    const bool worked = std::exchange(work_, work) != work;
    if (busy || worked)
      phase_ = phase::at_work;
    if (busy || phase_ == phase::told)
      return false;
    if (phase_ == phase::at_work) {
      phase_ = phase::waiting;
      due_ = now + after_;
    }
    if (now < due_)
      return false;
    phase_ = phase::told;
    return true;
  }

  /// When `look` should be called while nothing happens; none while busy, and after it was true.
  [[nodiscard]] std::optional<clock::time_point> next_look() const noexcept {
    return phase_ == phase::waiting ? std::optional(due_) : std::nullopt;
  }

private:
  enum class phase : std::uint8_t { at_work, waiting, told };

  clock::duration after_;
  phase phase_ = phase::at_work;
  clock::time_point due_{}; ///< of waiting
  std::uint64_t work_ = 0;
};

} // namespace tropilla
