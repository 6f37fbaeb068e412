/// Decides how the bytes of a model's devices are divided between weights that stay and KV pages, while replies run.
#pragma once

#include "src/placement/placement.hpp"
#include "src/placement/throughput_model.hpp"

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

/// The numbers of a division; bytes and slots are of all devices together.
struct division_figures {
  std::size_t kv_pages = 0;       ///< that there are bytes for
  std::size_t streamed_bytes = 0; ///< by a step
  std::size_t total_bytes = 0;    ///< of the plans
  std::size_t ring_slots = 0;
};

/// One division of all devices' budgets.
struct memory_division {
  std::size_t kv_pages = 0;                                        ///< that there are bytes for
  std::vector<std::shared_ptr<const weight_placement>> placements; ///< by device
  std::size_t streamed_bytes = 0;                                  ///< by a step, on all devices together

  /// Whether every plan is within the budget that it was made for.
  [[nodiscard]] bool fits() const;
};

/// A device whose budget is divided.
struct balanced_device {
  placement_input input;  ///< its shape: with the most tokens that may have pages
  std::size_t budget = 0; ///< 0: that of a plan with all pages and all weights in memory
};

/// A move to another division, and why.
struct memory_move {
  memory_division to;
  std::string reason; ///< for log and trace: "4 sequences want 96 pages: ..."
};

/// A plain class: it is told what was measured and what is wanted, and says when bytes should move. One thread.
///
/// A byte has a price. A resident weight group saves its streaming in every step; a KV page lets a sequence run in the
/// batch instead of waiting. A step of n sequences is predicted to take the longer of computing (as measured with n, or
/// interpolated between what was measured) and of streaming (streamed bytes over the measured bandwidth); a division
/// that has pages for n sequences gives n tokens per step. Bytes move when another division is predicted to give more
/// tokens per second by a margin, and the last move was long enough ago for what it cost.
class memory_balance {
public:
  using clock = std::chrono::steady_clock;

  /// `extent_pages`: pages come and go in so many at a time. Throws as `place`. @pre there is a device
  memory_balance(std::vector<balanced_device> devices, std::size_t extent_pages);

  /// The division with room for `pages` pages that streams least and, of its kind, has the most pages: whole extents,
  /// or all that the shape may have; pages beyond those are not planned. It exceeds a budget when nothing fits it.
  [[nodiscard]] memory_division with_pages(std::size_t pages);
  /// A division of each kind, with the most pages of it, from the fewest pages to the most that fit. Kinds differ in
  /// streamed bytes. Empty when not even one page fits.
  [[nodiscard]] std::vector<division_figures> kinds();

  /// At first the one for an ordinary request: an eighth of a context, 256 tokens if that is more.
  [[nodiscard]] const memory_division& current() const noexcept { return current_; }
  /// The devices follow this division now, with the budgets that it was made for.
  void moved(memory_division to, clock::time_point now);

  /// Until then only a move for the first sequence is made; empty before the first move.
  [[nodiscard]] std::optional<clock::time_point> rests_until() const noexcept { return rests_until_; }

  // -- what was measured ----

  /// A step of one token for each of `sequences` sequences took so long, in the current division.
  void step_computed(std::size_t sequences, const step_seconds& took) {
    speed_.step_computed(sequences, current_.streamed_bytes, took);
  }
  /// So many bytes of weights were read in this time.
  void weights_read(std::size_t bytes, double seconds) { speed_.weights_read(bytes, seconds); }

  // -- decisions ----

  /// `demand`: for each n, from 1 on, the pages that the first n sequences need to run for a while. `held`: pages that
  /// can't be given up without taking them from a sequence. Empty: stay.
  ///
  /// Pages for the first sequence are made at once. Other moves wait a second after a move, ten times its predicted
  /// cost if that is longer, and have to be worth it by prediction: more pages by an eighth, fewer by a seventh.
  /// Without demand, weights come back.
  [[nodiscard]] std::optional<memory_move> decide(std::span<const std::size_t> demand, std::size_t held,
                                                  clock::time_point now);
  /// The move for another budget of a device. Throws `error` (over_budget), and nothing changes, when a sequence of the
  /// whole context would not fit. It counts from `moved` on. Pages that are held stay, if any division has room for
  /// them.
  [[nodiscard]] memory_move for_budget(std::size_t device, std::size_t bytes, std::span<const std::size_t> demand,
                                       std::size_t held = 0);

private:
  /// Any number of pages from `first_pages` on to the figures' gives this division.
  struct kind {
    std::size_t first_pages = 0;
    division_figures figures;
    bool fits = false;
  };
  /// A division that a demand leads to, and how many sequences it has pages for.
  struct candidate {
    division_figures figures;
    std::size_t sequences = 0;
    std::optional<double> tokens_per_second;
  };

  [[nodiscard]] std::size_t in_extents(std::size_t pages) const noexcept;
  [[nodiscard]] memory_division divide(std::size_t pages) const;
  [[nodiscard]] std::size_t pages_with_spare(const memory_division& d) const;
  [[nodiscard]] bool has_budgets(const memory_division& d) const;
  const kind& kind_with(std::size_t pages);
  [[nodiscard]] std::size_t bytes_to_load(const memory_division& to) const;

  [[nodiscard]] candidate rated(const division_figures& figures, std::span<const std::size_t> demand) const;
  [[nodiscard]] std::vector<candidate> candidates(std::span<const std::size_t> demand);
  [[nodiscard]] std::optional<memory_move> move_for_first(std::span<const std::size_t> demand);
  [[nodiscard]] std::optional<memory_move> move_when_idle(std::size_t held);
  [[nodiscard]] std::optional<memory_move> move_for_more(std::span<const std::size_t> demand, std::size_t held);
  [[nodiscard]] division_figures for_new_budget(std::span<const std::size_t> demand, std::size_t held);

  std::vector<balanced_device> devices_;
  std::size_t extent_pages_ = 1;
  std::size_t max_pages_ = 0;
  std::size_t ordinary_pages_ = 0;    ///< of a request of which nothing is known
  std::map<std::size_t, kind> kinds_; ///< for these budgets, by pages; numbers alone, because placements are large
  memory_division last_;              ///< that `with_pages` made
  memory_division current_;
  throughput_model speed_;
  std::optional<clock::time_point> rests_until_;
};

} // namespace tropilla
