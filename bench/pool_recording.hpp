/// A recording of what real traffic asked of a device's pool: `bench_throughput --record-pool` writes it, `bench_pool
/// --replay` reads it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tropilla::bench {

/// The traffic as a circle: after the last allocation follows the first again, and blocks live on across that seam.
/// Plain data; sizes in bytes.
struct pool_recording {
  /// Blocks of one purpose and size.
  struct block_kind {
    std::string purpose; ///< as `to_string(purpose)` names it: "KV pages"
    std::size_t bytes = 0;
  };
  /// A block that comes while traffic runs.
  struct allocation {
    std::size_t kind = 0; ///< index
    std::size_t life = 0; ///< it is freed just before the allocation that comes so many later; 1 to twice their number
  };

  std::string how; ///< the command that recorded it
  std::size_t alignment = 0;
  std::vector<block_kind> kinds;
  std::vector<std::size_t> stay; ///< kinds of the blocks that are there all the time, in the order in which they came
  std::vector<allocation> allocations;
};

/// Throws `error` (io_error, malformed_file).
[[nodiscard]] pool_recording read_recording(const std::string& path);
/// Throws `error` (io_error).
void write_recording(const pool_recording& r, const std::string& path);

/// Makes a recording of the trace of a runtime (`runtime_config::trace`), of the device that it names first: from the
/// first step's beginning to the last one's end. Where blocks are there at the end that were not at the beginning, one
/// of the same kind that was there and went takes their place; what still differs goes, or comes back, at the seam.
/// Throws `error` (io_error, malformed_file).
[[nodiscard]] pool_recording recording_of_trace(const std::string& trace);

} // namespace tropilla::bench
