// Averages of what steps and restores took.
#include "src/schedule/move_costs.hpp"

namespace tropilla {

void move_costs::computed(std::size_t tokens, double seconds) noexcept {
  if (tokens >= kv_page_tokens)
    learn(compute_, seconds * kv_page_tokens / static_cast<double>(tokens));
}

void move_costs::restored(std::size_t pages, double seconds, clock::time_point now) noexcept {
  if (pages == 0)
    return;
  learn(restore_, seconds / static_cast<double>(pages));
  restored_ = now;
}

bool move_costs::worth_moving(clock::time_point now) const noexcept {
  return !compute_ || !restore_ || *restore_ < *compute_ || now - restored_ > memory;
}

void move_costs::learn(std::optional<double>& average, double value) noexcept {
  constexpr double weight = 0.3; // of the newest: the load changes faster than the machine
  average = average ? *average + weight * (value - *average) : value;
}

} // namespace tropilla
