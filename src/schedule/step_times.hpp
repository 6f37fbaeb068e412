/// How long a step takes, by what its time goes to.
#pragma once

#include <cstdint>
#include <utility>

namespace tropilla {

/// The times of a step, in seconds.
struct step_times {
  double compute = 0; ///< the device was busy
  double load = 0;    ///< weights were being read, since the step before ended
};

/// Measures the times of one device's steps. One thread.
class step_clock {
public:
  void step_begins() noexcept { compute_ = 0; }
  void job_done(double seconds) noexcept { compute_ += seconds; }
  /// Adds the step's times to those of the devices behind, at its end. `busy_ns` counts up while the loader reads; the
  /// next step's loading counts from there.
  void add_to(step_times& all, std::int64_t busy_ns) noexcept {
    all.compute += compute_;
    all.load += static_cast<double>(busy_ns - std::exchange(busy_ns_, busy_ns)) * 1e-9;
  }

private:
  double compute_ = 0;
  std::int64_t busy_ns_ = 0;
};

} // namespace tropilla
