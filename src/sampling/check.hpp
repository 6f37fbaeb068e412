/// Limits of a request's options, and the check whether they can be followed.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <limits>

namespace tropilla {

/// The numbers from `min` to `max`, both included.
struct number_range {
  double min;
  double max;

  [[nodiscard]] constexpr bool has(double value) const noexcept { return value >= min && value <= max; } // no NaN
};

/// The limits of a number of `sampling_options`.
struct sampling_limit {
  number_range engine;         ///< what a request may have
  number_range typed = engine; ///< what the command line takes: it has bounds where the engine takes any number
};

/// The limits of each number of `sampling_options`, by the names of the fields.
struct sampling_limits {
  static constexpr double largest = std::numeric_limits<double>::max();           // infinity is refused
  static constexpr double above_zero = std::numeric_limits<double>::denorm_min(); // the least number above 0

  static constexpr sampling_limit temperature{{0, largest}, {0, 100}};
  static constexpr sampling_limit top_p{{0, 1}};
  static constexpr sampling_limit min_p{{0, 1}};
  static constexpr sampling_limit typical_p{{above_zero, 1}, {1e-6, 1}};
  static constexpr sampling_limit repetition_penalty{{above_zero, largest}, {0.01, 100}};
  static constexpr sampling_limit frequency_penalty{{-largest, largest}, {-100, 100}};
  static constexpr sampling_limit presence_penalty{{-largest, largest}, {-100, 100}};
};

/// The largest `generation_options::logprobs`.
constexpr std::size_t max_logprobs = 20;
/// The largest `generation_options::outputs`; `check_request` refuses more.
constexpr std::size_t max_outputs = 128;

/// Throws `error` (invalid_argument) with the numbers for what is out of its range: temperatures, shares, penalties,
/// ids, stop strings, logprobs.
void check_generation(const generation_options& options, std::size_t vocabulary);

} // namespace tropilla
