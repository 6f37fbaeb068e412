// Reads with a few threads that block, where io_uring is refused.
#include "src/io/open_files.hpp"

#include "kernels/threads.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <vector>

namespace tropilla {
namespace {

// Four, on two cores: they wait more than they work. 512 scattered rows take 27 ms with one, 10 ms with four (bench_io
// FILE rows); of large reads two threads already get all that the disk gives.
constexpr std::size_t pool_threads = 4;

/// Makes one call for a read: returns bytes, or minus an errno.
long call_pread(const open_files& files, const read_request& r) {
  const auto n = ::pread(files.descriptor(r.file), r.destination, r.bytes, static_cast<off_t>(r.offset));
  return n < 0 ? -errno : static_cast<long>(n);
}

/// Slot numbers, first in, first out; allocates nothing after it was made.
class fifo {
public:
  explicit fifo(std::size_t capacity) : slots_(capacity) {}
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  void push(std::size_t slot) { slots_[(first_ + count_++) % slots_.size()] = slot; }
  std::size_t pop() {
    const auto slot = slots_[first_];
    first_ = (first_ + 1) % slots_.size();
    --count_;
    return slot;
  }

private:
  std::vector<std::size_t> slots_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

class pread_reader final : public file_reader {
public:
  pread_reader(std::unique_ptr<open_files> files, std::size_t depth)
      : files_(std::move(files)), reads_(depth), requested_(depth), completed_(depth) {
    for (std::size_t i = 0; i < depth; ++i)
      free_.push_back(i);
    for (std::size_t i = 0; i < std::min(depth, pool_threads); ++i)
      try {
        workers_.push_back(start_thread("reading files", [this](const std::stop_token& stop) { work(stop); }));
      } catch (const error&) {
        if (workers_.empty())
          throw;
        break; // with fewer it is only slower
      }
  }

  void submit_all(std::span<const read_request> requests) override {
    const std::lock_guard lock(mutex_);
    for (const auto& r : requests) {
      const auto slot = free_.back();
      free_.pop_back();
      reads_[slot] = pending_read(r);
      requested_.push(slot);
    }
    if (requests.size() == 1)
      work_.notify_one();
    else
      work_.notify_all();
  }

  read_completion wait() override {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return !completed_.empty(); });
    const auto slot = completed_.pop();
    free_.push_back(slot);
    return reads_[slot].completion();
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override { return reads_.size() - free_.size(); }
  [[nodiscard]] std::size_t depth() const noexcept override { return reads_.size(); }
  [[nodiscard]] std::string_view name() const noexcept override { return "pread"; }
  [[nodiscard]] io_mode mode() const noexcept override { return files_->mode(); }
  [[nodiscard]] std::size_t alignment() const noexcept override { return files_->alignment(); }

private:
  /// After a stop, what was requested is still read: its destinations are valid until then, and the owner may wait.
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (work_.wait(lock, stop, [this] { return !requested_.empty(); })) {
      const auto slot = requested_.pop();
      lock.unlock();
      while (!reads_[slot].take(call_pread(*files_, reads_[slot].rest()), *files_)) {
      }
      lock.lock();
      completed_.push(slot);
      done_.notify_one();
    }
  }

  std::unique_ptr<open_files> files_;
  std::mutex mutex_;
  std::condition_variable_any work_;
  std::condition_variable done_;
  std::vector<pending_read> reads_; ///< a slot is one thread's while its read is in flight
  std::vector<std::size_t> free_;   ///< of the owner's thread
  fifo requested_, completed_;
  std::vector<std::jthread> workers_; ///< last: they stop before the rest goes
};

} // namespace

std::unique_ptr<file_reader> make_pread_reader(std::unique_ptr<open_files> files, std::size_t depth) {
  return std::make_unique<pread_reader>(std::move(files), depth);
}

} // namespace tropilla
