/// Has the kernel read and write through io_uring. Inside of src/io.
#pragma once

#include <cstddef>
#include <cstdint>
#include <liburing.h>

namespace tropilla {

/// A queue of calls, which their owner numbers. Used by one thread; memory of a call stays valid until its result.
class uring_queue {
public:
  /// The result of a call: bytes, or minus an errno, as a system call would have it.
  struct result {
    std::size_t number = 0;
    long value = 0;
  };

  /// Throws `error` (io_error) when the kernel refuses a queue of this depth.
  explicit uring_queue(std::size_t depth);
  /// Cancels what is in flight.
  ~uring_queue();
  uring_queue(const uring_queue&) = delete;
  uring_queue& operator=(const uring_queue&) = delete;

  /// Notes a call for the next `submit` or `wait`; a long one is cut. @pre fewer than `depth` are in flight
  void read(std::size_t number, int descriptor, std::byte* into, std::size_t bytes, std::uint64_t offset) noexcept;
  void write(std::size_t number, int descriptor, const std::byte* from, std::size_t bytes,
             std::uint64_t offset) noexcept;
  /// Starts what was noted; what the kernel can't take now stays queued for `wait`.
  void submit() noexcept;
  /// Blocks until a call ends, in whatever order they do. @pre one is in flight. Throws `error` (io_error) when the
  /// queue breaks.
  [[nodiscard]] result wait();

private:
  void submit_the_rest();
  [[nodiscard]] io_uring_sqe* next_entry() noexcept;

  io_uring ring_{};
  std::size_t in_flight_ = 0; ///< calls that were noted and have no result yet
};

} // namespace tropilla
