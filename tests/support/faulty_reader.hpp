/// A file_reader that misbehaves on purpose: for tests of what stands above it.
#pragma once

#include "src/io/file_reader.hpp"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace tropilla::testing {

/// What happens to a read.
enum class read_fault : std::uint8_t {
  short_read, ///< half of its bytes arrive, then the file ends
  io_failure, ///< EIO; nothing arrives
  hang,       ///< it completes only after `release`
  no_memory,  ///< who waits gets std::bad_alloc instead of it
};

/// Faults by the number of the read, counted from 0 over the reader's life. Shared by the test and the reader, which
/// may be on another thread's hands; the test holds it as long as the reader lives.
class fault_script {
public:
  /// Before the read is submitted.
  void at(std::size_t read, read_fault fault) {
    const std::lock_guard lock(mutex_);
    faults_[read] = fault;
  }
  /// Blocks until a read hangs.
  void wait_until_hanging() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return hanging_ > 0; });
  }
  /// Lets what hangs, now and later, complete.
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] std::size_t reads() {
    const std::lock_guard lock(mutex_);
    return reads_;
  }

private:
  friend class faulty_reader;
  /// The fault of the next read, or null.
  [[nodiscard]] const read_fault* next() {
    const std::lock_guard lock(mutex_);
    const auto found = faults_.find(reads_++);
    return found == faults_.end() ? nullptr : &found->second;
  }
  void hang() {
    std::unique_lock lock(mutex_);
    ++hanging_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return released_; });
    --hanging_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::size_t, read_fault> faults_;
  std::size_t reads_ = 0;
  std::size_t hanging_ = 0;
  bool released_ = false;
};

/// Passes reads on to another reader, but for those that the script spoils.
class faulty_reader final : public file_reader {
public:
  faulty_reader(std::unique_ptr<file_reader> inner, fault_script& script) : inner_(std::move(inner)), script_(script) {}
  ~faulty_reader() override {
    script_.release();
    refused_ = 0;
    while (in_flight() > 0)
      (void)wait();
  }

  void submit_all(std::span<const read_request> requests) override {
    for (const auto& r : requests)
      if (const auto* fault = script_.next(); !fault)
        inner_->submit(r);
      else if (*fault == read_fault::hang)
        hung_.push_back(r);
      else if (*fault == read_fault::no_memory)
        ++refused_;
      else
        spoil(r, *fault);
  }

  /// Completions of sound reads come first, so that a hanging read blocks only who has nothing else to wait for.
  read_completion wait() override {
    if (refused_ > 0) {
      --refused_;
      throw std::bad_alloc();
    }
    if (!failed_.empty()) {
      auto c = std::move(failed_.front());
      failed_.pop_front();
      return c;
    }
    if (inner_->in_flight() == 0) {
      script_.hang();
      inner_->submit(hung_.front());
      hung_.pop_front();
    }
    return inner_->wait();
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override {
    return inner_->in_flight() + failed_.size() + hung_.size() + refused_;
  }
  [[nodiscard]] std::size_t depth() const noexcept override { return inner_->depth(); }
  [[nodiscard]] std::string_view name() const noexcept override { return "faulty"; }
  [[nodiscard]] io_mode mode() const noexcept override { return inner_->mode(); }
  [[nodiscard]] std::size_t alignment() const noexcept override { return inner_->alignment(); }

private:
  void spoil(const read_request& r, read_fault fault) {
    const bool half = fault == read_fault::short_read;
    const std::size_t arrived = half ? r.bytes / 2 : 0;
    std::memset(r.destination, 0x5a, arrived); // some bytes: nobody may use them
    failed_.push_back({r.tag,
                       "can't read " + std::to_string(r.bytes - arrived) + " bytes at offset " +
                           std::to_string(r.offset + arrived) + " of file " + std::to_string(r.file) +
                           (half ? ": the file ended; it was truncated after it was opened" : ": Input/output error"),
                       arrived});
  }

  std::unique_ptr<file_reader> inner_;
  fault_script& script_;
  std::deque<read_completion> failed_;
  std::deque<read_request> hung_;
  std::size_t refused_ = 0;
};

} // namespace tropilla::testing
