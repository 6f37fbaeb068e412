/// A sink that calls its client: the pieces and the end of one reply, in order.
#pragma once

#include "runtime/callback_threads.hpp"
#include "src/schedule/reply_sink.hpp"
#include "tropilla/runtime.hpp"

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <variant>

namespace tropilla {

/// Calls the client. What its callbacks throw ends its own reply, and reaches nobody else. They are called one after
/// the other: on `threads`, or, where the client promises to be quick, by the scheduler itself.
class callback_sink final : public reply_sink, public std::enable_shared_from_this<callback_sink> {
public:
  /// `threads`: null where the scheduler calls; outlives the reply. `max_unread`: pieces that wait; with
  /// the one that makes them so many the reply is to end.
  callback_sink(reply_callbacks callbacks, callback_threads* threads, std::size_t max_unread)
      : callbacks_(std::move(callbacks)), threads_(threads), max_unread_(max_unread) {}

  client_wants token(piece p) override;
  void logits(std::size_t, std::size_t, std::span<const float>) override {} // nobody scores into callbacks
  void finished(const generation_statistics& s) override;
  void failed(const error& why) override;

private:
  using happening = std::variant<piece, generation_statistics, error>;

  void post(happening h);
  void call_all() noexcept;
  void call(happening h) noexcept;
  void call_on_piece(piece p) noexcept;

  reply_callbacks callbacks_;
  callback_threads* threads_;
  std::size_t max_unread_;
  std::atomic<bool> enough_ = false; ///< the client wants no more
  std::optional<error> failure_;     ///< what `on_piece` threw; of who calls
  std::mutex mutex_;                 ///< guards the next two
  std::deque<happening> waiting_;
  bool posted_ = false; ///< somebody calls what waits
};

} // namespace tropilla
