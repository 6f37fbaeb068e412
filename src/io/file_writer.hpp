/// Writes places of a file, several at a time: with io_uring where the kernel allows it, else with pwrite on the
/// calling thread.
#pragma once

#include "src/io/file_reader.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace tropilla {

class uring_queue;

struct write_request {
  std::uint64_t offset = 0;          ///< from the file's start
  const std::byte* source = nullptr; ///< stays valid until the completion
  std::size_t bytes = 0;             ///< at least 1
  std::uint64_t tag = 0;             ///< comes back with the completion
};

struct write_completion {
  std::uint64_t tag = 0;
  int cause = 0; ///< 0: all bytes are written; else the errno of what went wrong, and some may be written
};

/// A write in flight. System calls may take it in pieces.
class pending_write {
public:
  pending_write() = default;
  explicit pending_write(const write_request& request) : request_(request) {}

  /// The rest that the next system call should write.
  [[nodiscard]] write_request rest() const noexcept;
  /// Takes a call's result (bytes, or minus an errno). True when the write ended; then `completion()` says how.
  [[nodiscard]] bool take(long result) noexcept;
  [[nodiscard]] write_completion completion() const noexcept { return {request_.tag, cause_}; }

private:
  write_request request_;
  std::size_t written_ = 0;
  int cause_ = 0;
};

/// Used by one thread. Destruction waits for the writes in flight.
class file_writer {
public:
  /// `descriptor`: of a file that is open for writing, and stays so. Throws `error` (io_error) when io_uring was asked
  /// for and is refused.
  file_writer(int descriptor, std::size_t depth, io_method method = io_method::automatic);
  ~file_writer();
  file_writer(const file_writer&) = delete;
  file_writer& operator=(const file_writer&) = delete;

  /// Starts a write. @pre fewer than `depth()` are in flight
  void submit(const write_request& request) noexcept;
  /// Blocks until a write ends, in whatever order they do. @pre one is in flight. Short writes are continued. Throws
  /// `error` (io_error) only if the kernel's queue breaks.
  [[nodiscard]] write_completion wait();
  [[nodiscard]] std::size_t in_flight() const noexcept { return writes_.size() - free_.size(); }
  [[nodiscard]] std::size_t depth() const noexcept { return writes_.size(); }
  [[nodiscard]] std::string_view name() const noexcept; ///< "io_uring" or "pwrite"

private:
  void prepare(std::size_t slot) noexcept;

  int descriptor_;
  std::unique_ptr<uring_queue> queue_; ///< null: pwrite
  std::vector<pending_write> writes_;
  std::vector<std::size_t> free_;
  std::vector<std::size_t> ended_; ///< by pwrite, and not waited for yet
};

} // namespace tropilla
