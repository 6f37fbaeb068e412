/// Keeps open descriptors, what their file systems can do, and what the result of a read means. Inside of src/io.
#pragma once

#include "src/io/file_reader.hpp"

#include <atomic>
#include <deque>

namespace tropilla {

/// Files opened for reading. Any thread may call its const functions.
class open_files {
public:
  /// `mode` is not automatic. Throws `error` (io_error) when a file can't be opened.
  open_files(std::span<const std::filesystem::path> paths, io_mode mode, bool scattered);
  ~open_files();
  open_files(const open_files&) = delete;
  open_files& operator=(const open_files&) = delete;

  [[nodiscard]] std::size_t count() const noexcept { return files_.size(); }
  [[nodiscard]] int descriptor(std::size_t file) const { return files_[file].descriptor; }
  [[nodiscard]] bool is_direct(std::size_t file) const { return files_[file].direct.load(std::memory_order_relaxed); }
  /// Direct as long as every file is read directly.
  [[nodiscard]] io_mode mode() const noexcept;
  [[nodiscard]] std::size_t alignment() const noexcept { return alignment_; }
  /// Makes reads of the file go through the page cache from now on. False when the system does not even allow that.
  [[nodiscard]] bool stop_direct(std::size_t file) const;
  /// "can't read 4096 bytes at offset 0 of model.gguf: Input/output error".
  [[nodiscard]] std::string failure(const read_request& r, std::string_view cause) const;

private:
  struct entry {
    entry(int fd, std::string path, bool is_direct) : descriptor(fd), name(std::move(path)), direct(is_direct) {}
    int descriptor;
    std::string name;
    mutable std::atomic<bool> direct;
  };
  void open_one(const std::filesystem::path& path, io_mode mode, bool scattered);
  void close_all() noexcept;

  std::deque<entry> files_; ///< entries don't move
  std::size_t alignment_ = 1;
};

/// A read in flight. System calls may deliver it in pieces.
class pending_read {
public:
  pending_read() = default;
  explicit pending_read(const read_request& request) : request_(request) {}

  /// The rest that the next system call should read.
  [[nodiscard]] read_request rest() const noexcept;
  /// Takes a call's result (bytes, or minus an errno). True when the read ended; then `completion()` says how.
  [[nodiscard]] bool take(long result, const open_files& files);
  [[nodiscard]] read_completion completion() const { return {request_.tag, failure_, arrived_}; }

private:
  [[nodiscard]] std::size_t required() const noexcept { return request_.required ? request_.required : request_.bytes; }
  [[nodiscard]] bool end_of_file(const open_files& files);

  read_request request_;
  std::size_t arrived_ = 0;
  std::string failure_;
};

/// The two implementations; `files` are the reader's alone.
[[nodiscard]] std::unique_ptr<file_reader> make_uring_reader(std::unique_ptr<open_files> files, std::size_t depth);
[[nodiscard]] std::unique_ptr<file_reader> make_pread_reader(std::unique_ptr<open_files> files, std::size_t depth);
/// Whether the kernel lets this process use io_uring; containers and old kernels do not.
[[nodiscard]] bool uring_works() noexcept;

} // namespace tropilla
