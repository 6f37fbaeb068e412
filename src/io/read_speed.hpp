/// Measures how fast consecutive reads of a file are, which limits whatever is streamed.
#pragma once

#include "src/io/file_reader.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>

namespace tropilla {

/// A measurement: what to read, and when to stop.
struct read_trial {
  std::size_t read_bytes = best_read_bytes; ///< of each read; a multiple of 4096
  std::uint64_t first = 0;                  ///< the read to begin with; after the file's last whole one comes its first
  std::size_t max_bytes = 0;                ///< at least one read is done, and the file is read once at most
  double max_seconds = std::numeric_limits<double>::infinity(); ///< no read starts after
};

struct read_speed {
  std::size_t bytes = 0;
  double seconds = 0;
  io_mode mode = io_mode::buffered; ///< how it was read in the end: direct reads may have been refused

  [[nodiscard]] double bytes_per_second() const noexcept {
    return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  }
};

/// Reads with `how.depth` reads in flight. Leaves the page cache as it is: to measure the disk, read directly or drop
/// the file's pages before. Throws `error`: io_error, invalid_argument when the file is shorter than a read.
[[nodiscard]] read_speed measure_reads(const std::filesystem::path& file, const reader_options& how,
                                       const read_trial& trial);

} // namespace tropilla
