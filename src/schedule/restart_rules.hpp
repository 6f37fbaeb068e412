/// What follows when a member of the cast ends: who is replaced, in which order, and when that is given up.
#pragma once

#include "memory/lease.hpp"
#include "src/schedule/restart_limit.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tropilla {

/// The rules of one supervisor. It is told what happened, and answers what its caller does, in that order. One thread.
///
/// A member of the weight pipeline that ends takes the other two with it: compute is suspended first, and a new
/// pipeline is spawned when all three are gone. A change of weights takes the same way, one change at a time. When
/// compute ends, it is spawned anew behind the new pipeline. Members that end again and again without progress are
/// given up.
class restart_rules {
public:
  /// What a pipeline brings, and where to; opaque, and compared by address.
  using placement = std::shared_ptr<const void>;

  /// Log a restart: the `start`-th of `restart_limit::max` without progress.
  struct log_restart {
    std::string name, reason;
    std::size_t start = 0;
  };
  /// Replace a member that is neither compute nor one of the pipeline.
  struct replace_member {
    std::size_t member = 0;
  };
  /// Tell the scheduler that a role has another holder.
  struct tell_replaced {};
  /// Log that a member is not replaced, and tell the scheduler.
  struct tell_down {
    std::string name, reason;
  };
  /// Fail what needs the member, now and later.
  struct give_up_member {
    std::size_t member = 0;
    error why;
  };
  /// End compute and close its role: nobody follows.
  struct close_compute {
    error why;
  };
  /// Ask compute to stand still; `suspended` takes the answer. Where none comes, compute has ended.
  struct suspend_compute {
    placement next_placement;
  };
  /// End all three members; `pipeline_member_ended` is called for each.
  struct stop_pipeline {};
  /// Spawn a pipeline that need not read `kept()`; then call `pipeline_spawned` or `spawn_failed`.
  struct spawn_pipeline {
    placement next_placement;
  };
  /// Spawn compute over the pipeline; then call `compute_spawned` or `spawn_failed`.
  struct spawn_compute {};
  /// Let compute go on with the new pipeline.
  struct resume_compute {
    restart_rules::placement placement;
    std::vector<lease> kept;
  };
  /// Log that there is no pipeline for a change, and that the placement before stays.
  struct log_refusal {
    std::string why;
  };
  /// Answer the oldest change that has no answer.
  struct answer_change {
    std::optional<error> failure; ///< empty: the weights are changed
  };
  using action = std::variant<log_restart, replace_member, tell_replaced, tell_down, give_up_member, close_compute,
                              suspend_compute, stop_pipeline, spawn_pipeline, spawn_compute, resume_compute,
                              log_refusal, answer_change>;
  using actions = std::vector<action>;

  /// A pipeline for `current` and compute are running, or their ends will be told. `device` is for names.
  restart_rules(std::string device, placement current) : device_(std::move(device)), current_(std::move(current)) {}

  /// "sampler: reason" for all that is not replaced.
  [[nodiscard]] const std::vector<std::string>& down() const noexcept { return down_; }
  /// Ends that were followed by a restart.
  [[nodiscard]] std::size_t restarts() const noexcept { return restarts_; }
  /// What compute kept for the pipeline that is to be spawned, by group; or nothing.
  [[nodiscard]] const std::vector<lease>& kept() const noexcept { return kept_; }

  // `progress` counts up whenever something was computed.
  [[nodiscard]] actions member_ended(std::size_t member, const std::string& name, const std::string& reason,
                                     std::uint64_t progress);
  [[nodiscard]] actions pipeline_member_ended(const std::string& name, const std::string& reason,
                                              std::uint64_t progress);
  [[nodiscard]] actions compute_ended(const std::string& reason, std::uint64_t progress);
  /// Other weights are wanted. Answered once, in order.
  [[nodiscard]] actions change(placement next_placement);
  /// Compute stands still for `next_placement`, and kept these leases.
  [[nodiscard]] actions suspended(placement next_placement, std::vector<lease> kept);
  [[nodiscard]] actions pipeline_spawned();
  [[nodiscard]] actions compute_spawned();
  /// The pipeline or compute could not be spawned.
  [[nodiscard]] actions spawn_failed(const error& why);

private:
  static constexpr std::size_t pipeline_members = 3;

  [[nodiscard]] bool may_restart(const std::string& name, const std::string& reason, std::uint64_t progress,
                                 actions& out);
  void report(const std::string& name, const std::string& reason, actions& out);
  [[nodiscard]] actions give_up(const std::string& name, const std::string& reason);
  void stop(actions& out);
  void spawn_when_gone(actions& out);
  void begin_change(actions& out) const;
  [[nodiscard]] bool is_first_change(const placement& p) const { return !changes_.empty() && changes_.front() == p; }

  std::string device_;
  placement current_;                           ///< that the last pipeline was spawned for
  placement spawning_;                          ///< that the pipeline to be spawned is for
  std::size_t members_left_ = pipeline_members; ///< of the pipeline: not known to be down
  bool restarting_ = false;                     ///< compute is asked to stand still because one of the pipeline is gone
  bool compute_gone_ = false;                   ///< the pipeline is leaving
  bool suspended_ = false;                      ///< compute stands still, the pipeline is leaving
  placement suspended_for_;                     ///< while `suspended_`
  std::vector<lease> kept_;                     ///< while `suspended_`
  std::deque<placement> changes_;               ///< the first is in flight
  std::optional<error> refusal_;                ///< of the first, while the placement before gets a pipeline again
  restart_limit limit_;
  std::size_t restarts_ = 0;
  std::vector<std::string> down_;
  std::optional<error> given_up_; ///< why pipeline and compute have no successors
};

} // namespace tropilla
