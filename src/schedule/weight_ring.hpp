/// Decides which weight groups of a device are loaded when: resident groups once, streamed ones through the ring.
#pragma once

#include "memory/lease.hpp"
#include "src/log/log.hpp"
#include "src/schedule/ring_depth.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tropilla {

enum class group_kind : std::uint8_t {
  no_load,  ///< without bytes, or compute has it already: delivered at once, without a lease
  resident, ///< loaded once
  streamed, ///< loaded anew for every step
};

struct weight_ring_setup {
  std::string device;             ///< for the log
  std::vector<group_kind> groups; ///< in the order in which a step needs them
  std::size_t norm_group = 0;     ///< from this group on, only steps with logits need them
  std::size_t slots = 0;          ///< of the plan
  std::size_t slot_bytes = 0;
  std::size_t spare_bytes = 0; ///< of the budget, beyond the plan: the ring may grow by them
  logger log{};
};

/// A plain class: it is told what happened, and every answer is a list of what to do next, in order. One thread.
///
/// Resident groups are leased and loaded in order, a few at a time. Streamed groups pass through the slots of the ring,
/// in the order of need and round again; one that was delivered stays in its slot until it is released. A group whose
/// load failed is tried again when it is needed again.
///
/// The ring begins with the plan's slots, and grows and shrinks as `ring_depth` advises. When others need the bytes it
/// shrinks down to two.
class weight_ring {
public:
  using clock = ring_depth::clock;
  using waiter = std::uint64_t; ///< a name for someone who needs a group; of the caller's choice, and never used twice

  /// Lease a block for a resident group: `group_leased` or `group_refused` follows.
  struct lease_group {
    std::size_t group = 0;
  };
  /// Lease a slot's bytes: `slot_leased` or `slot_refused` follows.
  struct lease_slot {};
  /// Load a group: `loaded` or `load_failed` follows.
  struct load {
    std::size_t group = 0;
    lease destination;
  };
  struct deliver {
    waiter to = 0;
    std::size_t group = 0;
    lease weights; ///< empty where the group needs no load
  };
  struct fail {
    waiter to = 0;
    error why;
  };
  /// The ring has so many slots now.
  struct count_slots {
    std::size_t slots = 0;
  };
  using action = std::variant<lease_group, lease_slot, load, deliver, fail, count_slots>;
  using actions = std::vector<action>;

  explicit weight_ring(weight_ring_setup setup);

  /// Once, before anything else.
  [[nodiscard]] actions start();

  /// The waiter gets exactly one `deliver` or `fail`, here or later. @pre a streamed group is one that the step
  /// in flight needs
  [[nodiscard]] actions needed(std::size_t group, waiter who, clock::time_point now);
  /// Nobody reads a group that was delivered any more. Means nothing for groups that aren't streamed.
  [[nodiscard]] actions released(std::size_t group, clock::time_point now);
  /// A step without logits ends before the output, and behind its last group comes the first again.
  [[nodiscard]] actions step_announced(bool with_logits, clock::time_point now);
  /// The next step begins at the first group. All streamed groups count as released; those who wait for one get
  /// cancelled.
  [[nodiscard]] actions step_abandoned(clock::time_point now);
  /// Others need the bytes: a slot that is not in use goes.
  [[nodiscard]] actions shrink();

  [[nodiscard]] actions group_leased(std::size_t group, const lease& block);
  [[nodiscard]] actions group_refused(std::size_t group, const error& why);
  [[nodiscard]] actions slot_leased(const lease& memory, clock::time_point now);
  [[nodiscard]] actions slot_refused(const error& why);
  [[nodiscard]] actions loaded(std::size_t group, clock::time_point now);
  [[nodiscard]] actions load_failed(std::size_t group, const error& why, clock::time_point now);

private:
  /// The state of a resident group; a streamed group has the state of its slot.
  enum class group_state : std::uint8_t { queued, in_flight, ready, failed };
  struct group_entry {
    group_state state = group_state::queued;
    lease weights; ///< of a resident group
    std::vector<waiter> waiting;
  };

  enum class slot_state : std::uint8_t {
    empty,
    loading,
    stale, ///< loading, but it is not wanted any more
    ready,
    held, ///< delivered and not released
  };
  struct slot {
    lease memory;
    slot_state state = slot_state::empty;
    std::size_t group = 0;     ///< unless it is empty
    clock::time_point since{}; ///< its load was asked for, or it was delivered

    [[nodiscard]] bool loading() const noexcept { return state == slot_state::loading || state == slot_state::stale; }
    [[nodiscard]] bool filled() const noexcept { return state == slot_state::ready || state == slot_state::held; }
  };

  [[nodiscard]] bool streams(std::size_t group) const noexcept { return setup_.groups[group] == group_kind::streamed; }
  [[nodiscard]] actions take_actions() noexcept;
  void deliver_to(waiter who, std::size_t group, clock::time_point now);
  void deliver_to_waiters(std::size_t group, clock::time_point now);
  void fail_waiters(std::size_t group, const error& why);

  void fetch_resident();
  void resident_loaded(std::size_t group, clock::time_point now);
  void resident_failed(std::size_t group, const error& why);

  [[nodiscard]] slot* slot_of(std::size_t group) noexcept;
  [[nodiscard]] bool is_ready(std::size_t group) noexcept;
  [[nodiscard]] std::size_t position_of(std::size_t group) const noexcept;
  [[nodiscard]] std::optional<std::size_t> next_without_slot() noexcept;
  [[nodiscard]] std::size_t distance_of(std::size_t group) const noexcept;
  void fill(clock::time_point now);
  [[nodiscard]] std::optional<std::size_t> awaited_without_slot() noexcept;
  void unblock(clock::time_point now);
  void start_over(std::size_t position, clock::time_point now);
  void sort_out_loads() noexcept;
  void adjust_depth();
  void drop_slot();
  [[nodiscard]] slot* arrived_slot(std::size_t group, clock::time_point now);
  void streamed_loaded(std::size_t group, clock::time_point now);
  void streamed_failed(std::size_t group, const error& why, clock::time_point now);

  weight_ring_setup setup_;
  std::vector<group_entry> groups_;
  std::deque<std::size_t> queue_;        ///< resident groups to lease and load, in the order of need
  std::size_t in_flight_ = 0;            ///< loads of resident groups, with their leases
  std::vector<std::size_t> streamed_;    ///< streamed groups, in the order of need; behind the last comes the first
  std::size_t next_needed_ = 0;          ///< in `streamed_`: behind the group that was released last
  std::size_t groups_per_step_ = 0;      ///< how many of `streamed_` the step needs: all, or those before the output
  std::size_t streamed_before_norm_ = 0; ///< in `streamed_`
  std::vector<slot> slots_;
  std::size_t slots_refused_ = 0;
  ring_depth depth_;
  actions todo_;
};

} // namespace tropilla
