// Reads through io_uring: one system call starts many reads.
#include "src/io/open_files.hpp"
#include "src/io/uring_queue.hpp"

#include "tropilla/error.hpp"

#include <utility>
#include <vector>

namespace tropilla {
namespace {

class uring_reader final : public file_reader {
public:
  uring_reader(std::unique_ptr<open_files> files, std::size_t depth)
      : files_(std::move(files)), queue_(depth), reads_(depth) {
    for (std::size_t i = 0; i < depth; ++i)
      free_.push_back(i);
  }
  ~uring_reader() override {
    try {
      while (in_flight() > 0)
        (void)wait();
    } catch (const error&) { // a broken queue: leaving it cancels what is left
    }
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
    queue_.submit();
  }

  read_completion wait() override {
    for (;;) {
      const auto [slot, result] = queue_.wait();
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
  void prepare(std::size_t slot) {
    const auto r = reads_[slot].rest();
    queue_.read(slot, files_->descriptor(r.file), r.destination, r.bytes, r.offset);
  }

  std::unique_ptr<open_files> files_;
  uring_queue queue_;
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
