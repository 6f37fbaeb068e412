// Counts tokens, and forgets those that left the window.
#include "src/sampling/token_history.hpp"

#include <utility>

namespace tropilla {

token_history::token_history(std::size_t window, std::span<const token_id> prompt) : window_(window) {
  if (window_ > 0 && prompt.size() > window_)
    prompt = prompt.last(window_);
  for (const auto token : prompt)
    add(token, false);
}

void token_history::add(token_id token, bool reply) {
  auto& c = counts_[token];
  ++c.all;
  c.reply += reply;
  if (window_ == 0)
    return;
  if (recent_.size() < window_) {
    recent_.push_back({token, reply});
    return;
  }
  const entry gone = std::exchange(recent_[oldest_], {token, reply});
  oldest_ = (oldest_ + 1) % window_;
  const auto it = counts_.find(gone.token);
  it->second.reply -= gone.reply;
  if (--it->second.all == 0)
    counts_.erase(it);
}

} // namespace tropilla
