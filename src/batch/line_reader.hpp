/// Reads lines of a file or a pipe, one at a time, in memory that does not grow with either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace tropilla {

/// A line as it lies in the input.
struct input_line {
  std::size_t number = 0;  ///< from 1
  std::string text;        ///< without its line end; of a line that is too long, the beginning
  std::uint64_t bytes = 0; ///< that it takes in the input, line end included
  bool too_long = false;
  bool ended = false; ///< by a line end; the last line of a file may have none
  /// A hash of number, length and text, which tells whether another line is in its place.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept;
  /// Whether the line is nothing but white space.
  [[nodiscard]] bool blank() const noexcept;
};

/// Bytes of a line that its fingerprint covers; a longer line's length counts, too. No limit is lower.
constexpr std::size_t fingerprinted_bytes = std::size_t{1} << 20;

/// The longest line: 16 MiB, far beyond what a context holds.
constexpr std::size_t longest_batch_line = std::size_t{16} << 20;

/// Reads lines from a descriptor, which stays the caller's. One thread at a time.
class line_reader {
public:
  /// Lines beyond `longest` bytes come with their beginning alone. `name` is for messages.
  line_reader(int descriptor, std::string name, std::size_t longest = longest_batch_line);

  /// The next line of what has been read; empty: call `read_some`, or the input has `ended`.
  [[nodiscard]] std::optional<input_line> next();
  /// Waits at most so long until `read_some` has something to do, which it always has for files.
  [[nodiscard]] bool readable(int milliseconds) const;
  /// Makes one read. Throws `error` (io_error).
  void read_some();
  /// Whether everything was read and taken.
  [[nodiscard]] bool ended() const noexcept { return at_end_ && from_ == buffer_.size() && line_.bytes == 0; }
  /// Blocks for the next line; empty at the end. Throws as `read_some`.
  [[nodiscard]] std::optional<input_line> wait();

private:
  void take(std::size_t count);

  int descriptor_;
  std::string name_;
  std::size_t longest_;
  std::string buffer_;
  std::size_t from_ = 0; ///< of the buffer: what was not looked at
  input_line line_;      ///< what of the next line was seen
  bool at_end_ = false;
};

} // namespace tropilla
