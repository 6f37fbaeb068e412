/// The state machine of a device's compute: which weight groups it asks for, what it computes next, when it stands
/// still.
#pragma once

#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tropilla {

/// What a step runner knows of a placement.
struct step_groups {
  std::vector<bool> streamed;     ///< by group: comes anew for every step, and goes when it has been computed
  std::vector<bool> there;        ///< by group: in memory already, or without bytes
  std::size_t begin = 0, end = 0; ///< a step computes [begin, end) in this order
  std::size_t output = 0;         ///< groups from here on are needed for logits alone
  bool embedding_on_disk = false; ///< the embedding is no group: its rows are looked up for each step
};

/// A plain class: compute tells it what happened, and does what it answers. One thread.
///
/// Resident groups are asked for once, streamed ones in every step that needs them. A step is computed in as few jobs
/// as the arriving groups allow: one, when all are resident; a streamed group is a job's last, since its slot is wanted
/// as soon as it has been computed. One job is out at a time.
class step_runner {
public:
  /// Stamps a question, so that an answer that comes too late is known as such: a placement that was left, or a
  /// streamed group (rows of an embedding, too) of a step that is over.
  struct ticket {
    std::size_t epoch = 0;
    std::optional<std::size_t> step; ///< of what is asked for one step
  };
  struct question {
    std::size_t group = 0;
    ticket stamp;
  };
  struct decision {
    enum class what : std::uint8_t {
      wait,    ///< for groups, rows, the job that is out, or a step
      compute, ///< groups [first, last) in one job
      hand_on, ///< the next device goes on
      finish,  ///< the step is computed
      give_up, ///< the step fails with `failure`
    };
    what to_do = what::wait;
    std::size_t first = 0, last = 0;
  };

  /// `hands_on`: another device has the groups behind these. A job of the compute before this one counts as out.
  step_runner(step_groups groups, bool hands_on) : hands_on_(hands_on) { follow(std::move(groups)); }

  // -- groups ----

  /// The groups to ask for now: all resident ones that are not there, and what the step still has to compute. They
  /// count as asked for. None while compute stands still.
  [[nodiscard]] std::vector<question> questions();
  /// A group has come. False: too late, it is not for us.
  [[nodiscard]] bool arrived(std::size_t group, const ticket& stamp);
  /// A group can't be had, and may be asked for again. False: too late.
  [[nodiscard]] bool failed(std::size_t group, const ticket& stamp, const error& why);
  [[nodiscard]] bool is_there(std::size_t group) const { return groups_.there[group]; }
  [[nodiscard]] bool all_resident_there() const;

  // -- steps ----

  /// Whether a step may begin: none is under way, and no job of the compute before this one.
  [[nodiscard]] bool may_begin() const noexcept { return !in_step_ && !inherits_; }
  [[nodiscard]] bool in_step() const noexcept { return in_step_; }
  /// The job that is out is of the compute before this one.
  [[nodiscard]] bool inherits() const noexcept { return inherits_; }
  /// Whether `decide` may say something else than to wait.
  [[nodiscard]] bool may_go_on() const noexcept { return in_step_ && !job_out_ && !suspended_ && !handed_on_; }
  /// A step begins, `output` with logits. @pre `may_begin()`
  void begin(bool output);
  /// The stamp of a lookup of the step's rows, when the embedding is on disk and the step has not passed it. To be
  /// called at the step's begin, and again after `resume`.
  [[nodiscard]] std::optional<ticket> start();
  /// The rows of the embedding have come, or can't be had. False: too late.
  [[nodiscard]] bool rows_arrived(const ticket& stamp);
  [[nodiscard]] bool rows_failed(const ticket& stamp, const error& why);
  /// What to do now; what it says counts as done. Waits while compute stands still or a job is out.
  [[nodiscard]] decision decide();
  /// Why the step is given up. @pre `decide` said so
  [[nodiscard]] const error& failure() const { return *failure_; }
  /// What `decide` said to compute can't be enqueued: no job is out.
  void not_enqueued() noexcept { job_out_ = false; }
  /// The job that was out is done. Returns the streamed groups that were computed: they are not there any more.
  [[nodiscard]] std::vector<std::size_t> job_done();
  /// The step has an answer. `given_up`: returns the streamed groups that were there, which are not any more.
  std::vector<std::size_t> end(bool given_up);
  /// A job's last group is the step's last.
  [[nodiscard]] bool is_last(std::size_t last) const noexcept { return last == step_end_; }

  // -- standing still ----

  [[nodiscard]] bool suspended() const noexcept { return suspended_; }
  /// Whether compute may stand still now: no job is out, and where the placement changes, no step is under way.
  [[nodiscard]] bool may_suspend(bool placement_changes) const noexcept {
    return !job_out_ && !(placement_changes && in_step_);
  }
  /// Compute stands still until `resume`: no group is there, and what was asked for comes too late.
  void suspend();
  /// Compute goes on where the step stands, with the groups of another placement or pipeline.
  void resume(step_groups groups);

private:
  void follow(step_groups groups);
  [[nodiscard]] bool is_late(const ticket& stamp) const noexcept {
    return stamp.epoch != epoch_ || (stamp.step && *stamp.step != steps_);
  }
  /// Forgets streamed groups before `end` that are there, and returns them.
  std::vector<std::size_t> drop_streamed(std::size_t end);

  step_groups groups_;
  bool hands_on_;
  std::vector<bool> asked_; ///< by group: an answer is on its way
  std::size_t epoch_ = 0;   ///< counts placements and pipelines
  std::size_t steps_ = 0;   ///< that ended
  bool suspended_ = false;
  bool job_out_ = true;
  bool inherits_ = true; ///< the job is of the compute before this one
  bool in_step_ = false;
  bool output_ = false; ///< the step wants logits
  bool handed_on_ = false;
  bool rows_there_ = false; ///< of the embedding
  std::size_t next_ = 0;    ///< the first group of the step that was in no job
  std::size_t step_end_ = 0;
  std::optional<error> failure_;
};

} // namespace tropilla
