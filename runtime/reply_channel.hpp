/// The queue between the scheduler and a client on a thread of its own.
#pragma once

#include "src/schedule/reply_sink.hpp"

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

namespace tropilla {

/// The scheduler pushes, one client waits. Any thread on either side.
class reply_channel final : public reply_sink {
public:
  /// `max_unread`: pieces; with the one that makes them so many the reply is to end.
  explicit reply_channel(std::size_t max_unread = static_cast<std::size_t>(-1)) : max_unread_(max_unread) {}

  /// What a scored sequence's step gave.
  struct logit_rows {
    std::size_t first = 0;
    std::size_t rows = 0;
    std::span<const float> values;
  };

  client_wants token(piece p) override {
    bool room = false;
    push([&] {
      pieces_.push_back(std::move(p));
      room = pieces_.size() < max_unread_;
    });
    return room ? client_wants::more : client_wants::room_for_pieces;
  }
  void logits(std::size_t first, std::size_t rows, std::span<const float> values) override {
    push([&] { logits_ = logit_rows{first, rows, values}; });
  }
  void finished(const generation_statistics& statistics) override {
    push([&] {
      statistics_ = statistics;
      ended_ = true;
    });
  }
  void failed(const error& why) override {
    push([&] {
      failure_ = why;
      ended_ = true;
    });
  }

  /// Blocks for the next piece; empty at the end. Throws what the reply failed with.
  [[nodiscard]] std::optional<piece> next_piece() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !pieces_.empty() || ended_; });
    if (pieces_.empty()) {
      if (failure_)
        throw error(*failure_);
      return std::nullopt;
    }
    auto p = std::move(pieces_.front());
    pieces_.pop_front();
    return p;
  }

  /// Blocks for the next rows of logits; empty at the end. Throws what the request failed with.
  [[nodiscard]] std::optional<logit_rows> next_logits() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return logits_ || ended_; });
    if (failure_)
      throw error(*failure_);
    return std::exchange(logits_, std::nullopt);
  }

  [[nodiscard]] bool ended() const {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  /// @pre the reply ended.
  [[nodiscard]] const generation_statistics& statistics() const noexcept { return statistics_; }

private:
  template <class F>
  void push(F change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }

  std::size_t max_unread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<piece> pieces_;
  std::optional<logit_rows> logits_;
  std::optional<error> failure_;
  generation_statistics statistics_;
  bool ended_ = false;
};

} // namespace tropilla
