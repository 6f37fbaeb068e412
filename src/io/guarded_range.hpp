/// Guards memory in which a file is mapped against the file's getting shorter and against disks that fail.
///
/// A thread that touches a mapped page that the file does not reach any more, or that can't be read, gets SIGBUS, which
/// ends the process. A guarded range loses its contents instead: from then on it is zeros, and `lost` says so, to every
/// thread that has read a zero in place of the file's byte. A user of the range asks afterwards, and drops the result.
///
/// The signal's handler is the process's, so this is the one place in the library with global state. It is installed
/// with the first range and gone with the last one, looks at nothing but guarded ranges, and hands every other SIGBUS
/// to the handler that was there before. A program that installs its own later must hand on what it does not know, as
/// always; else a lost page ends the process as it would without us.
#pragma once

#include <atomic>
#include <cstddef>

namespace tropilla {

/// One guarded range of memory. Any thread may call its functions.
class guarded_range {
public:
  /// Guards page-aligned memory that a file is mapped to; it stays mapped until this is gone.
  guarded_range(std::byte* begin, std::size_t bytes);
  /// @pre no thread reads the range any more
  ~guarded_range();
  guarded_range(const guarded_range&) = delete;
  guarded_range& operator=(const guarded_range&) = delete;

  /// False when there are too many ranges, or the system refuses the handler: a lost page ends the process.
  [[nodiscard]] bool guarded() const noexcept { return slot_ >= 0; }
  [[nodiscard]] bool lost() const noexcept { return state_.load() != state::whole; }
  /// Counts the contents as lost, because the file was found to be another one.
  void lose() noexcept;
  /// Makes a part of a lost range memory of its own, to be written, which is never lost again. @pre `lost()`, the part
  /// begins and ends at pages. False when the system refuses.
  [[nodiscard]] bool replace(std::byte* begin, std::size_t bytes) const noexcept;

private:
  friend struct sigbus;
  enum class state : int {
    whole,
    losing, ///< a handler is about to map zeros over all of it
    lost,
  };
  std::byte* begin_;
  std::size_t bytes_;
  mutable std::atomic<state> state_ = state::whole;
  int slot_ = -1;
};

} // namespace tropilla
