/// The state machine of a device's compute: which weight groups it asks for, what it computes next, when it stands
/// still.
#pragma once

#include "src/schedule/suspensions.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace tropilla {

/// What a step runner knows of a placement.
struct step_groups {
  std::vector<bool> streamed;     ///< by group: comes anew for every step, and goes when it has been computed
  std::vector<bool> present;      ///< by group: in memory already, or without bytes
  std::size_t begin = 0, end = 0; ///< a step computes [begin, end) in this order
  std::size_t norm_group = 0;     ///< from this group on, only steps with logits need them
  bool embedding_on_disk = false; ///< the embedding is no group: its rows are looked up for each step
  suspensions::placement placement{};
};

/// A plain class: compute tells it what happened, and does what it answers until there is nothing to do. One thread.
///
/// Resident groups are asked for once, streamed ones in every step that needs them. A step is computed in as few jobs
/// as the arriving groups allow: one, when all are resident; a streamed group is a job's last, since its slot is wanted
/// as soon as it has been computed. One job is in flight at a time, and one step.
class step_runner {
public:
  /// Tells an answer that comes too late: for a placement or pipeline that was left, or for a step that is over.
  struct request_tag {
    std::size_t epoch = 0;
    std::optional<std::size_t> step; ///< for what one step alone needs: streamed groups, rows of the embedding
  };
  struct group_request {
    std::size_t group = 0;
    request_tag tag;
  };

  /// Compute stands still: hand its leases over to all who asked for this placement. What was asked for before comes
  /// too late.
  struct suspend {
    suspensions::placement next_placement;
  };
  /// All resident groups are present: tell those who wait for them.
  struct tell_residents {};
  /// Some group can't be had: tell those who wait for resident ones.
  struct refuse_residents {
    error why;
  };
  /// Take the first step in line.
  struct begin {};
  /// Tell those who bring weights what the step needs from where it stands; `ask` follows. With a lookup: have its rows
  /// of the embedding looked up.
  struct announce {
    bool with_logits = false;
    std::optional<request_tag> lookup;
  };
  /// Ask for groups.
  struct ask {
    std::vector<group_request> requests;
  };
  /// Compute groups [first, last) in one job; then call `job_done`.
  struct compute {
    std::size_t first = 0, last = 0;
    bool ends_step = false;
  };
  /// Have the next device go on; with its answer call `end`.
  struct hand_on {};
  /// The step is computed: call `end`.
  struct finish {};
  /// The step fails: call `end`.
  struct give_up {
    error why;
  };
  using action =
      std::variant<suspend, tell_residents, refuse_residents, begin, announce, ask, compute, hand_on, finish, give_up>;

  /// `hands_on`: another device has the groups behind these. A job of the compute before this one counts as in
  /// flight.
  step_runner(step_groups groups, bool hands_on) : hands_on_(hands_on) { follow(std::move(groups)); }

  /// What to do now, and counts as done; if `compute`, `hand_on` or `finish` throws, call `fail`. Empty: wait until
  /// something else happens.
  [[nodiscard]] std::optional<action> decide();

  // -- groups ----

  /// A group has come. False: too late, it is not for us.
  [[nodiscard]] bool arrived(std::size_t group, const request_tag& tag);
  /// A group can't be had, and may be asked for again. False: too late.
  [[nodiscard]] bool failed(std::size_t group, const request_tag& tag, const error& why);
  [[nodiscard]] bool is_present(std::size_t group) const { return groups_.present[group]; }
  /// Somebody waits until all resident groups are present. What failed before is asked for again.
  void residents_wanted() { residents_wanted_ = asks_ = true; }

  // -- steps ----

  /// A step is put in line.
  void step_wanted(bool with_logits) { in_line_.push_back(with_logits); }
  [[nodiscard]] bool in_step() const noexcept { return in_step_; }
  /// The job in flight is of the compute before this one: no step begins before it is done.
  [[nodiscard]] bool waits_for_predecessor() const noexcept { return waits_for_predecessor_; }
  /// The rows of the embedding have come, or can't be had. False: too late.
  [[nodiscard]] bool embedding_arrived(const request_tag& tag);
  [[nodiscard]] bool embedding_failed(const request_tag& tag, const error& why);
  /// Whether the step goes on once what it needs is present: it waits neither for a job nor for the next device.
  [[nodiscard]] bool may_go_on() const noexcept { return in_step_ && !job_in_flight_ && !suspended() && !handed_on_; }
  /// The device is broken, or what was decided can't be done: no job is in flight, and the step is given up.
  /// @pre `may_go_on()`, or `decide` just said to compute, to hand on or to finish
  void fail(const error& why);
  /// The job in flight is done. Returns the streamed groups that were computed: they are not present any more.
  [[nodiscard]] std::vector<std::size_t> job_done();
  /// The step has an answer. `given_up`: returns the streamed groups that were present, which are not any more.
  std::vector<std::size_t> end(bool given_up);

  // -- other devices ----

  /// So many devices were asked to compute their shares of the step: it ends when all of them have answered.
  void others_asked(std::size_t count) { others_ = count; }
  void other_done() { --others_; }
  /// One of them can't: the step is given up.
  void other_failed(const error& why);
  /// Why the step will be given up; null: nothing is wrong so far.
  [[nodiscard]] const error* step_failure() const noexcept { return in_step_ && failure_ ? &*failure_ : nullptr; }

  // -- standing still ----

  /// Somebody wants compute to stand still, for a pipeline of this placement.
  void suspension_wanted(suspensions::placement next_placement) { suspensions_.add(std::move(next_placement)); }
  [[nodiscard]] bool suspended() const noexcept { return suspensions_.suspended(); }
  /// Compute goes on where the step stands, with the groups of another placement or pipeline.
  void resume(step_groups groups);

private:
  void follow(step_groups groups);
  void begin_step();
  [[nodiscard]] announce announce_step();
  /// The groups to ask for now: all resident ones that are not present, and what the step still has to compute. They
  /// count as asked for.
  [[nodiscard]] std::vector<group_request> next_requests();
  [[nodiscard]] std::optional<action> go_on();
  [[nodiscard]] bool is_late(const request_tag& tag) const noexcept {
    return tag.epoch != epoch_ || (tag.step && *tag.step != steps_);
  }
  [[nodiscard]] bool all_resident_present() const;
  /// Forgets streamed groups before `end` that are present, and returns them.
  std::vector<std::size_t> drop_streamed(std::size_t end);

  step_groups groups_;
  bool hands_on_;
  std::vector<bool> asked_; ///< by group: its request is in flight
  bool asks_ = true;        ///< there may be something to ask for
  std::size_t epoch_ = 0;   ///< counts placements and pipelines
  suspensions suspensions_;
  bool residents_wanted_ = false;
  std::optional<error> refusal_; ///< of those who wanted residents, until `decide` says so
  bool job_in_flight_ = true;
  bool waits_for_predecessor_ = true; ///< the job in flight is of the compute before this one
  std::vector<bool> in_line_;         ///< steps that have not begun: with logits or without
  std::size_t steps_ = 0;             ///< that ended
  bool in_step_ = false;
  bool announces_ = false; ///< nothing was brought for the step since it began, or compute went on
  bool with_logits_ = false;
  bool handed_on_ = false;
  bool embedding_present_ = false; ///< the step's rows of it
  std::size_t next_group_ = 0;     ///< the first group of the step that was in no job
  std::size_t step_end_ = 0;
  std::optional<error> failure_; ///< of what the step needs
  bool broken_ = false;          ///< the failure counts although all groups are computed
  std::size_t others_ = 0;       ///< devices that compute their shares of the step
};

} // namespace tropilla
