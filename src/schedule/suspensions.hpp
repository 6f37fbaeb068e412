/// Decides when the suspensions of a device's compute are answered.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace tropilla {

/// Suspensions without an answer, and whether compute stands still. A plain class; one thread.
///
/// A suspension for compute's own placement (its pipeline ended, another will follow) is due between two jobs, and
/// comes first. A suspension for another placement (the budget changes) is due between two steps. Once one is answered,
/// compute stands still, and the others wait until it goes on, except when one more comes meanwhile: it may be from a
/// new supervisor, whose predecessor ended and will not let compute go on, and so may any of those that wait. All of
/// them are due then.
class suspensions {
public:
  /// What compute is to go on with; opaque, and compared by address.
  using placement = std::shared_ptr<const void>;

  /// Somebody wants compute to stand still for this placement.
  void add(placement next_placement) {
    waiting_.push_back(std::move(next_placement));
    all_due_ = suspended_;
  }
  /// Takes all suspensions for one placement for which any is due, and returns that placement: compute stands still.
  /// Null: none is due. `current`: compute's own placement. @pre no job is in flight
  [[nodiscard]] placement take_due(const placement& current, bool in_step) {
    if (suspended_ && !all_due_)
      return nullptr;
    auto first = suspended_ ? waiting_.begin() : std::ranges::find(waiting_, current);
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
