/// The output file of a batch: records are appended to it, and the next start reads it to go on where the batch
/// stopped.
///
/// Memory does not grow with the files: finished lines are kept as ranges. Requests end nearly in the order of the
/// input, so there are about as many gaps as requests were being computed when it stopped (and one per blank line).
#pragma once

#include "src/batch/line_reader.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// A set of line numbers, as ranges.
class line_set {
public:
  /// Adds a line; false: it is there already.
  bool insert(std::size_t line);
  [[nodiscard]] bool contains(std::size_t line) const noexcept;
  [[nodiscard]] bool empty() const noexcept { return ranges_.empty(); }
  [[nodiscard]] std::size_t largest() const noexcept { return ranges_.empty() ? 0 : ranges_.back().last; }
  [[nodiscard]] std::size_t ranges() const noexcept { return ranges_.size(); }

private:
  struct range {
    std::size_t first, last;
  };
  std::vector<range> ranges_; ///< in order; neighbours don't touch
};

/// The finished lines that an existing output has.
struct finished_lines {
  line_set lines;
  std::size_t records = 0;
  std::size_t failed = 0;         ///< of them, with an error
  std::uint64_t fingerprints = 0; ///< the sum of all, in any order, modulo 2^64
};

/// Throws `error` (invalid_argument) unless the lines of the input that are finished are those that the output's
/// records were made from. Returns whether others are left, blank ones aside. Reads the input from its current position
/// to the last that is finished, or to the first other one behind it.
bool require_same_input(int input, const std::string& name, const finished_lines& done, const std::string& output);

/// The output file; each record is one write. One thread.
class batch_journal {
public:
  /// Opens or makes the file, keeps others from writing to it, cuts a torn last line off and reads the records, or
  /// with `restart` removes all. Throws `error`: io_error, busy when another process writes to it, malformed_file when
  /// it holds something else.
  batch_journal(std::string path, bool restart);
  ~batch_journal();
  batch_journal(const batch_journal&) = delete;
  batch_journal& operator=(const batch_journal&) = delete;

  [[nodiscard]] const finished_lines& finished() const noexcept { return done_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  /// Appends a whole line, and now and then syncs the file. Throws `error` (io_error).
  void append(std::string_view record);
  /// Syncs the file: the disk has everything when it returns. Throws `error` (io_error).
  void sync();

private:
  void read_records();

  using clock = std::chrono::steady_clock;
  std::string path_;
  int descriptor_ = -1;
  bool regular_ = true;
  finished_lines done_;
  clock::time_point synced_ = clock::now();
};

} // namespace tropilla
