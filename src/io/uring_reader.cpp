// Reads through io_uring: one system call starts many reads.
#include "src/io/open_files.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <liburing.h>
#include <thread>
#include <vector>

namespace tropilla {
namespace {

constexpr std::size_t longest_call = std::size_t{1} << 30; // the kernel cuts reads at 2 GiB - 4 KiB; stay aligned

class uring_reader final : public file_reader {
public:
  uring_reader(std::unique_ptr<open_files> files, std::size_t depth) : files_(std::move(files)), reads_(depth) {
    if (const int rc = io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0); rc < 0)
      throw error(errc::io_error, fmt::format("the kernel refuses io_uring: {}", std::strerror(-rc)));
    for (std::size_t i = 0; i < depth; ++i)
      free_.push_back(i);
  }
  ~uring_reader() override {
    try {
      while (in_flight() > 0)
        (void)wait();
    } catch (const error&) { // a broken queue: leaving it cancels what is left
    }
    io_uring_queue_exit(&ring_);
  }
  uring_reader(const uring_reader&) = delete;
  uring_reader& operator=(const uring_reader&) = delete;

  void submit_all(std::span<const read_request> requests) override {
    for (const auto& r : requests) {
      const auto slot = free_.back();
      free_.pop_back();
      reads_[slot] = pending_read(r);
      prepare(slot);
    }
    io_uring_submit(&ring_); // what it could not take now stays queued for `wait`
  }

  read_completion wait() override {
    for (;;) {
      submit_the_rest();
      io_uring_cqe* cqe = nullptr;
      const int rc = io_uring_wait_cqe(&ring_, &cqe);
      if (rc == -EINTR || rc == -EAGAIN)
        continue;
      if (rc < 0)
        throw error(errc::io_error, fmt::format("io_uring can't wait for reads: {}", std::strerror(-rc)));
      const auto slot = static_cast<std::size_t>(cqe->user_data);
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      if (reads_[slot].take(result, *files_)) {
        free_.push_back(slot);
        return reads_[slot].completion();
      }
      prepare(slot);
    }
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override { return reads_.size() - free_.size(); }
  [[nodiscard]] std::size_t depth() const noexcept override { return reads_.size(); }
  [[nodiscard]] std::string_view name() const noexcept override { return "io_uring"; }
  [[nodiscard]] io_mode mode() const noexcept override { return files_->mode(); }
  [[nodiscard]] std::size_t alignment() const noexcept override { return files_->alignment(); }

private:
  /// Submits the reads that the kernel has not taken. If it has none, there is nothing to wait for, and it is asked
  /// again for a second.
  void submit_the_rest() {
    constexpr std::chrono::milliseconds pause{1};
    for (std::chrono::milliseconds waited{0}; io_uring_sq_ready(&ring_) > 0; waited += pause) {
      const int rc = io_uring_submit(&ring_);
      if (rc >= 0 || in_flight() > io_uring_sq_ready(&ring_))
        return;
      if (waited >= std::chrono::seconds(1))
        throw error(errc::io_error, fmt::format("the kernel takes no reads from io_uring: {}", std::strerror(-rc)));
      std::this_thread::sleep_for(pause);
    }
  }

  void prepare(std::size_t slot) {
    const auto r = reads_[slot].rest();
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_); // never null: as many entries as slots
    io_uring_prep_read(sqe, files_->descriptor(r.file), r.destination,
                       static_cast<unsigned>(std::min(r.bytes, longest_call)), r.offset);
    io_uring_sqe_set_data64(sqe, slot);
  }

  std::unique_ptr<open_files> files_;
  io_uring ring_{};
  std::vector<pending_read> reads_;
  std::vector<std::size_t> free_;
};

} // namespace

std::unique_ptr<file_reader> make_uring_reader(std::unique_ptr<open_files> files, std::size_t depth) {
  return std::make_unique<uring_reader>(std::move(files), depth);
}

bool uring_works() noexcept {
  io_uring probe{};
  if (io_uring_queue_init(2, &probe, 0) < 0)
    return false;
  io_uring_queue_exit(&probe);
  return true;
}

} // namespace tropilla
