/// Predicts tokens per second of decode steps from what was measured of earlier ones.
#pragma once

#include <cstddef>
#include <map>
#include <optional>

namespace tropilla {

/// How long a step took.
struct step_seconds {
  double compute = 0; ///< the devices were busy
  double whole = 0;   ///< from when it was asked for to its answer; 0: not known
};

/// A step takes the longer of computing and of streaming, because weights are read while others are computed with.
/// Where it streams it takes longer than that by a factor, which is measured, too: both share the memory's bandwidth,
/// and some of the reading overlaps with nothing. Knows no clock. One thread.
class throughput_model {
public:
  /// A step of one token for each of `sequences` sequences, which streamed so many bytes.
  void step_computed(std::size_t sequences, std::size_t streamed_bytes, const step_seconds& took);
  /// So many bytes of weights were read in this time.
  void weights_read(std::size_t bytes, double seconds);

  /// Seconds that a step of a token for each of `sequences` computes: the running mean of what was measured, linear
  /// between the nearest numbers of sequences that were. Empty before the first measurement. @pre sequences > 0
  [[nodiscard]] std::optional<double> compute_seconds(std::size_t sequences) const;
  /// Seconds to read so many bytes; empty when it was never measured, 0 for no bytes.
  [[nodiscard]] std::optional<double> read_seconds(std::size_t bytes) const;
  /// Tokens per second of steps that compute `sequences` sequences and stream so many bytes; empty when a measurement
  /// is missing that it depends on.
  [[nodiscard]] std::optional<double> tokens_per_second(std::size_t sequences, std::size_t streamed_bytes) const;

private:
  [[nodiscard]] std::optional<double> overlapped_seconds(std::size_t sequences, std::size_t streamed_bytes) const;

  std::map<std::size_t, double> seconds_; ///< by sequences
  double read_bytes_ = 0, read_seconds_ = 0;
  /// Whole steps by their longer part, where weights were streamed. Until it is measured: as seen with SmolLM2-135M on
  /// two cores. Too little has bytes moved for nothing.
  double streaming_factor_ = 1.4;
};

} // namespace tropilla
