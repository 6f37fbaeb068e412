// Takes what the scheduler tells of a reply to the client's callbacks.
#include "runtime/callback_sink.hpp"

#include <string>
#include <utility>

namespace tropilla {

client_wants callback_sink::token(piece p) {
  if (threads_ == nullptr) {
    call_on_piece(std::move(p));
    return enough_ ? client_wants::nothing : client_wants::more;
  }
  if (enough_)
    return client_wants::nothing;
  post(std::move(p));
  const std::lock_guard lock(mutex_);
  return waiting_.size() < max_unread_ ? client_wants::more : client_wants::room_for_pieces;
}

void callback_sink::finished(const generation_statistics& s) {
  if (threads_ == nullptr)
    call(s);
  else
    post(s);
}

void callback_sink::failed(const error& why) {
  if (threads_ == nullptr)
    call(why);
  else
    post(why);
}

void callback_sink::post(happening h) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(h));
    if (std::exchange(posted_, true))
      return;
  }
  try {
    threads_->post([self = shared_from_this()] { self->call_all(); });
  } catch (const error&) { // there is not a single thread: then the scheduler's has to do
    call_all();
  }
}

void callback_sink::call_all() noexcept {
  for (;;) {
    std::unique_lock lock(mutex_);
    if (waiting_.empty()) {
      posted_ = false;
      return;
    }
    auto next = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    call(std::move(next));
  }
}

/// The last call of a reply: its client has heard that it is over, so nothing is left that an exception could end.
void callback_sink::call(happening h) noexcept {
  try {
    if (auto* const p = std::get_if<piece>(&h))
      return call_on_piece(std::move(*p));
    if (const auto* const why = std::get_if<error>(&h); why != nullptr || failure_) {
      if (callbacks_.on_failed)
        callbacks_.on_failed(failure_ ? *failure_ : *why);
      return;
    }
    auto statistics = std::get<generation_statistics>(h);
    if (enough_) // it may have ended by itself before the client said so
      statistics.finish = finish_reason::cancelled;
    if (callbacks_.on_finished)
      callbacks_.on_finished(statistics);
  } catch (...) { // documented at `reply_callbacks`
  }
}

void callback_sink::call_on_piece(piece p) noexcept {
  if (enough_ || !callbacks_.on_piece)
    return;
  try {
    if (!callbacks_.on_piece(std::move(p)))
      enough_ = true;
    return;
  } catch (const std::exception& e) {
    failure_.emplace(errc::client_failed, std::string("the client's on_piece threw: ") + e.what());
  } catch (...) {
    failure_.emplace(errc::client_failed, "the client's on_piece threw something that is no std::exception");
  }
  enough_ = true;
}

} // namespace tropilla
