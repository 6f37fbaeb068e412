/// Decides when the suspensions of a device's compute are answered.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace tropilla {

/// Suspensions that have no answer yet, and whether compute stands still. One thread.
///
/// A suspension for the placement of the moment (its pipeline ended) is due between two jobs, and before others; one
/// for another placement is due between two steps. The others wait until compute goes on, unless one more comes
/// meanwhile: its supervisor follows one that ended, and any of those that wait may be its own. All of them are due
/// then.
class suspensions {
public:
  /// Which weights are to follow; opaque, and compared by address.
  using placement = std::shared_ptr<const void>;

  /// One is asked for.
  void add(placement next) {
    waiting_.push_back(std::move(next));
    all_due_ = suspended_;
  }
  /// Takes those that are due, of one placement, and returns that: compute stands still. Null: none is due.
  /// @pre no job is out
  [[nodiscard]] placement take_due(const placement& now, bool in_step) {
    if (suspended_ && !all_due_)
      return nullptr;
    auto first = suspended_ ? waiting_.begin() : std::ranges::find(waiting_, now);
    if (first == waiting_.end() && !in_step)
      first = waiting_.begin();
    if (first == waiting_.end())
      return nullptr;
    auto due = *first;
    std::erase(waiting_, due);
    suspended_ = true;
    return due;
  }
  [[nodiscard]] bool suspended() const noexcept { return suspended_; }
  /// Compute goes on.
  void resume() noexcept { suspended_ = all_due_ = false; }

private:
  std::vector<placement> waiting_; ///< in the order in which they came
  bool suspended_ = false;
  bool all_due_ = false; ///< one came while compute stood still
};

} // namespace tropilla
