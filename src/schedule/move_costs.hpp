/// Compares the time in which pages are read back from a store with that in which they are computed again.
#pragma once

#include "kernels/kv_cache.hpp"

#include <chrono>
#include <cstddef>
#include <optional>

namespace tropilla {

/// Learns from what happened: steps of prompts, and pages that were restored. Moving is worth its time until both are
/// known, and again some time after it was found not to be, because a disk that was busy may be idle now. One thread
/// at a time.
class move_costs {
public:
  using clock = std::chrono::steady_clock;
  /// Time after which a slow restore is forgotten.
  static constexpr std::chrono::seconds memory{60};

  /// A step computed `tokens` tokens, most of them of prompts, in `seconds` of computing and loading.
  void computed(std::size_t tokens, double seconds) noexcept;
  void restored(std::size_t pages, double seconds, clock::time_point now) noexcept;
  /// Whether a page comes back from the store sooner than it is computed.
  [[nodiscard]] bool worth_moving(clock::time_point now) const noexcept;

private:
  static void learn(std::optional<double>& average, double value) noexcept;

  std::optional<double> compute_; ///< seconds for the tokens of a page
  std::optional<double> restore_; ///< seconds for a page
  clock::time_point restored_{};  ///< the last time
};

} // namespace tropilla
