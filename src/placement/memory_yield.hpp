/// Decides how a device's budget follows the memory pressure of the machine.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>

namespace tropilla {

/// How fast a budget goes down and up again.
struct yield_pace {
  using duration = std::chrono::steady_clock::duration;

  /// Steps from the budget that was asked for to nothing: an eighth gives others something at once, and costs a run
  /// that has to stream instead no more than that.
  std::size_t steps = 8;
  /// From one step down to the next: what the last one gave back has to show in the kernel's figures first, which it
  /// averages over up to two seconds.
  duration between_steps_down = std::chrono::seconds(3);
  /// Without pressure before a step up, and from each to the next: weights that come back are read again, so waiting is
  /// cheaper than to come back too early.
  duration quiet = std::chrono::seconds(30);
  /// A step up that brought pressure back doubles `quiet`, up to this.
  duration max_quiet = std::chrono::minutes(16);
};

/// A plain class without clock and files: it is told of pressure, and answers with the budget to set. One thread.
class memory_yield {
public:
  using clock = std::chrono::steady_clock;

  /// `top`: the budget that was asked for.
  explicit memory_yield(std::size_t top, const yield_pace& pace = {});

  /// Looks, when there is pressure and at `next_look`. Returns a budget to set; `changed` or `refused` follows.
  [[nodiscard]] std::optional<std::size_t> look(bool pressure, clock::time_point now);
  /// The budget that the last look returned counts.
  void changed(clock::time_point now);
  /// It does not: the runtime can't do with so little, or not now. It goes no lower until `quiet` is over.
  void refused(clock::time_point now);
  /// Others have set another budget, to which this one returns from now on.
  void set_top(std::size_t bytes);

  /// When `look` should be called at the latest while there is no pressure: none at the top.
  [[nodiscard]] std::optional<clock::time_point> next_look() const;
  [[nodiscard]] std::size_t top() const noexcept { return top_; }
  [[nodiscard]] std::size_t current() const noexcept { return current_; } ///< the budget that counts

private:
  [[nodiscard]] std::optional<std::size_t> lower(clock::time_point now);
  [[nodiscard]] std::optional<std::size_t> raise(clock::time_point now);

  yield_pace pace_;
  std::size_t top_, current_;
  std::size_t asked_ = 0;                        ///< that the last look returned
  clock::duration quiet_;                        ///< as `yield_pace::quiet`, doubled where that was too short
  std::optional<clock::time_point> lowered_;     ///< last
  std::optional<clock::time_point> refused_;     ///< last
  std::optional<clock::time_point> quiet_since_; ///< pressure, a step up, or its refusal: what a rise waits behind
  bool raised_ = false;                          ///< since the last pressure
};

} // namespace tropilla
