// Runs one automaton for each string; the text waits for the one that has matched the most bytes.
#include "src/sampling/stop_matcher.hpp"

#include <algorithm>
#include <utility>

namespace tropilla {

stop_matcher::stop_matcher(const std::vector<std::string>& strings) {
  for (const auto& s : strings) {
    if (s.empty())
      continue;
    pattern p{s, std::vector<std::size_t>(s.size() + 1, 0), 0};
    for (std::size_t i = 1, k = 0; i < s.size(); ++i) {
      while (k > 0 && s[i] != s[k])
        k = p.border[k];
      k += s[i] == s[k];
      p.border[i + 1] = k;
    }
    patterns_.push_back(std::move(p));
  }
}

std::string stop_matcher::push(std::string_view text) {
  if (matched_)
    return {};
  if (patterns_.empty())
    return std::string(text);
  const std::size_t before = held_.size();
  held_ += text;
  for (std::size_t i = before; i < held_.size(); ++i) {
    std::size_t longest = 0; // of those that end here: it begins first
    for (auto& p : patterns_) {
      while (p.state > 0 && p.text[p.state] != held_[i])
        p.state = p.border[p.state];
      p.state += p.text[p.state] == held_[i];
      if (p.state == p.text.size()) {
        longest = std::max(longest, p.text.size());
        p.state = p.border[p.state];
      }
    }
    if (longest > 0) {
      matched_ = true;
      held_.resize(i + 1 - longest);
      return std::exchange(held_, {});
    }
  }
  std::size_t waiting = 0;
  for (const auto& p : patterns_)
    waiting = std::max(waiting, p.state);
  std::size_t end = held_.size() - waiting;
  while (end > 0 && end < held_.size() && (static_cast<unsigned char>(held_[end]) & 0xC0) == 0x80)
    --end; // a stop string that begins inside of a character
  std::string out = held_.substr(0, end);
  held_.erase(0, end);
  return out;
}

std::string stop_matcher::finish() {
  return std::exchange(held_, {});
}

} // namespace tropilla
