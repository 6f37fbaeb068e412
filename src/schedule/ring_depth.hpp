/// When a streaming ring should have more slots, or fewer: from how long groups take to load and to compute.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace tropilla {

/// A plain class: it is told what happened and gives advice. One thread.
///
/// Where loading takes longer than computing, every step waits for the last bytes whatever the ring holds, and more
/// slots gain nothing. Where it takes less and compute waits all the same, times vary, and a slot more evens them out.
class ring_depth {
public:
  using clock = std::chrono::steady_clock;
  enum class change : std::uint8_t { none, grow, shrink };

  /// Slots that the plan has, and bytes that the budget leaves for more.
  ring_depth(std::size_t planned, std::size_t spare_bytes, std::size_t slot_bytes) noexcept
      : planned_(planned),
        max_(std::min(std::max(planned, max_slots), planned + (slot_bytes > 0 ? spare_bytes / slot_bytes : 0))) {}

  /// A group arrived that was asked for at `asked`.
  void arrived(clock::time_point asked, clock::time_point now) noexcept {
    blend(load_, now - std::max(asked, last_arrival_));
    last_arrival_ = now;
  }
  /// Compute gave a group back that it had since `delivered`; `next_ready`: what it needs next is ready.
  void released(clock::time_point delivered, clock::time_point now, bool next_ready) noexcept {
    blend(compute_, now - std::max(delivered, last_release_));
    last_release_ = now;
    next_ready ? ++smooth_ : ++stalls_;
    if (!next_ready)
      smooth_ = 0;
  }
  [[nodiscard]] change advice(std::size_t slots) noexcept {
    if (stalls_ >= stalls_to_grow && load_ <= compute_ && slots < max_) {
      stalls_ = 0;
      return change::grow;
    }
    if (smooth_ >= smooth_to_shrink && slots > planned_) {
      smooth_ = 0;
      return change::shrink;
    }
    return change::none;
  }

private:
  static constexpr std::size_t max_slots = 8;
  static constexpr std::size_t stalls_to_grow = 4;
  static constexpr std::size_t smooth_to_shrink = 1024;

  /// A running mean: the newest counts for an eighth.
  static void blend(std::chrono::duration<double>& mean, std::chrono::duration<double> value) noexcept {
    mean = mean.count() == 0 ? value : mean + (value - mean) / 8;
  }

  std::size_t planned_, max_;
  std::chrono::duration<double> load_{}, compute_{};
  clock::time_point last_arrival_{}, last_release_{};
  std::size_t stalls_ = 0, smooth_ = 0;
};

} // namespace tropilla
