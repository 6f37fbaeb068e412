/// Moves bytes between weights that stay and KV pages, in the order that keeps every budget.
#pragma once

#include "src/log/log.hpp"
#include "src/placement/memory_balance.hpp"
#include "src/schedule/batcher.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tropilla {

struct memory_flow_setup {
  std::shared_ptr<memory_balance> balance;
  std::shared_ptr<batcher> batching; ///< asks for memory up to the limit that this sets
  /// True while replicas use the weights: the division stays.
  std::function<bool()> pinned = [] { return false; };
  /// Told how many pages may be asked for from now on: no others may take their bytes.
  std::function<void(std::size_t pages)> pledge = [](std::size_t) {};
  tracer* trace = nullptr;
  logger log{};
};

/// A plain class: it is told what happened, and every answer is a list of what to do next, in order. One thread, the
/// batcher's.
///
/// A move to fewer pages lowers the batcher's limit first, and changes the weights when the pages beyond it have gone;
/// a move to more pages changes the weights first. So pages and weights together never exceed a budget. One move is in
/// flight at a time; wishes for another division wait in line and come before moves of the balance.
class memory_flow {
public:
  /// A move that ended.
  struct past_move {
    memory_balance::clock::time_point began{}, ended{};
    std::size_t kv_pages = 0;       ///< that there are bytes for since
    std::size_t streamed_bytes = 0; ///< by a step, since
    std::string reason;
  };
  static constexpr std::size_t max_past_moves = 16;

  using clock = memory_balance::clock;

  /// Have a device follow another placement; `changed` or `not_changed` follows.
  struct change {
    std::size_t device = 0;
    std::shared_ptr<const weight_placement> next_placement;
  };
  /// Answer the oldest wish that has no answer.
  struct answer_wish {
    std::optional<error> failure; ///< empty: it is done
  };
  using action = std::variant<change, answer_wish>;
  using actions = std::vector<action>;

  explicit memory_flow(memory_flow_setup setup);

  // -- wishes, each answered once, in order ----

  /// Another budget of a device.
  void want_budget(std::size_t device, std::size_t bytes);
  /// At least so many pages, or as many as there may be. `for_replica`: of the division that replicas keep.
  void want_pages(std::size_t pages, bool for_replica = false);

  // -- what happened ----

  /// Between two steps, or when none is in flight: begins a move, or goes on with one.
  [[nodiscard]] actions look(clock::time_point now);
  /// The device follows the placement of the move.
  [[nodiscard]] actions changed(std::size_t device, clock::time_point now);
  /// The device goes on with the placement that it had.
  [[nodiscard]] actions not_changed(std::size_t device, const error& why, clock::time_point now);
  /// The supervisor that was to have the device follow the placement is gone.
  [[nodiscard]] actions again(std::size_t device);
  /// The scheduler that performed the actions is gone, and clients ask for their wishes again: a move in flight is
  /// asked for again, wishes are forgotten.
  [[nodiscard]] actions taken_over();
  /// A step was computed: `decoding` of its sequences, or 0 where it had tokens of prompts, too. `read` bytes came in
  /// `read_seconds` since the last step.
  void step_computed(std::size_t decoding, const step_seconds& took, std::size_t read, double read_seconds);

  /// When `look` should be called at the latest while nothing happens.
  [[nodiscard]] std::optional<clock::time_point> next_look() const noexcept;
  /// The last moves, the newest first, at most `max_past_moves`.
  [[nodiscard]] const std::deque<past_move>& past_moves() const noexcept { return past_; }
  /// Pages that there are bytes for.
  [[nodiscard]] std::size_t page_limit() const noexcept { return setup_.balance->current().kv_pages; }

private:
  enum class phase : std::uint8_t { none, lowering, changing };
  struct budget_wish {
    std::size_t device = 0, bytes = 0;
  };
  struct pages_wish {
    std::size_t pages = 0;
    bool for_replica = false;
  };
  using wish = std::variant<budget_wish, pages_wish>;

  void decide(clock::time_point now);
  void begin_wish(clock::time_point now);
  /// Empty: nothing has to move.
  [[nodiscard]] std::optional<memory_move> move_for(const budget_wish& w);
  [[nodiscard]] std::optional<memory_move> move_for(const pages_wish& w);
  void end_wish(const std::optional<error>& failure);
  void begin(memory_move move, bool by_force, clock::time_point now);
  void set_limit(std::size_t pages, bool by_force = false);
  void change_devices(clock::time_point now);
  void ask_awaited();
  void end_if_done(clock::time_point now);
  [[nodiscard]] actions take_actions() noexcept { return std::exchange(todo_, {}); }

  memory_flow_setup setup_;
  tracer::track track_ = 0;
  phase phase_ = phase::none;
  memory_move move_;             ///< unless the phase is none
  memory_division reached_;      ///< what the devices follow, while they change
  std::vector<bool> awaited_;    ///< by device: its answer
  std::optional<error> refusal_; ///< of a device, in this move
  std::deque<wish> wishes_;
  bool wish_in_flight_ = false; ///< the move is for the first of them
  clock::time_point began_{};
  std::deque<past_move> past_;
  std::optional<clock::time_point> next_look_;
  bool settled_ = false; ///< nothing was there to move for at the last look, nor will be while no request comes
  actions todo_;
};

} // namespace tropilla
