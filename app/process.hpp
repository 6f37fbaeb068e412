/// Reads what the operating system knows about this process.
#pragma once

#include <chrono>
#include <cstddef>

namespace tropilla::app {

/// Measures the time since the process began, exec and dynamic linking included.
///
/// The kernel keeps the start in ticks of 10 ms (/proc/self/stat, field 22), rounded down, so what this says may be up
/// to 10 ms too long, never too short. A shell that replaced itself by this program (`exec`) started long before: an
/// age above one second at construction counts as none.
class process_clock {
public:
  /// Construct first thing in main.
  process_clock();
  [[nodiscard]] double seconds() const;

private:
  std::chrono::steady_clock::time_point begin_;
  double age_at_begin_ = 0;
};

/// Makes threads share one heap where the address space is limited (ulimit -v): otherwise each of them reserves 64 MiB.
/// Call before there are threads.
void spare_address_space() noexcept;

/// The peak resident set in bytes (VmHWM).
[[nodiscard]] std::size_t peak_resident_bytes();

/// Checks the stack's limit. Call before deep calls and before any thread is made. Throws `error` (invalid_argument)
/// where the stack's limit is too small for this program; threads that are made from now on have stacks that are large
/// enough, whatever the limit.
void check_stack_limit();

} // namespace tropilla::app
