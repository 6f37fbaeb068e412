// Steps of a share of the top: down while there is pressure, up after quiet.
#include "src/placement/memory_yield.hpp"

#include <algorithm>

namespace tropilla {

memory_yield::memory_yield(std::size_t top, const yield_pace& pace)
    : pace_(pace), top_(top), current_(top), quiet_(pace.quiet) {}

std::optional<std::size_t> memory_yield::look(bool pressure, clock::time_point now) {
  return pressure ? lower(now) : raise(now);
}

std::optional<std::size_t> memory_yield::lower(clock::time_point now) {
  quiet_since_ = now;
  if (raised_)
    quiet_ = std::min(2 * quiet_, pace_.max_quiet);
  raised_ = false;
  if (lowered_ && now < *lowered_ + pace_.between_steps_down)
    return std::nullopt;
  if (refused_ && now < *refused_ + quiet_)
    return std::nullopt;
  const std::size_t step = top_ / pace_.steps;
  if (step == 0 || current_ <= step)
    return std::nullopt;
  return asked_ = current_ - step;
}

std::optional<std::size_t> memory_yield::raise(clock::time_point now) {
  if (!quiet_since_ || now < *quiet_since_ + quiet_)
    return std::nullopt;
  if (current_ == top_) { // it has stayed there
    quiet_since_.reset();
    refused_.reset();
    raised_ = false;
    quiet_ = pace_.quiet;
    return std::nullopt;
  }
  return asked_ = top_ - current_ <= top_ / pace_.steps ? top_ : current_ + top_ / pace_.steps;
}

void memory_yield::changed(clock::time_point now) {
  if (asked_ > current_) {
    quiet_since_ = now;
    raised_ = true;
  } else {
    lowered_ = now;
  }
  current_ = asked_;
}

void memory_yield::refused(clock::time_point now) {
  if (asked_ > current_)
    quiet_since_ = now;
  else
    refused_ = now;
}

void memory_yield::set_top(std::size_t bytes) {
  top_ = current_ = bytes;
  quiet_ = pace_.quiet;
  lowered_.reset();
  refused_.reset();
  quiet_since_.reset();
  raised_ = false;
}

std::optional<memory_yield::clock::time_point> memory_yield::next_look() const {
  if (!quiet_since_)
    return std::nullopt;
  return *quiet_since_ + quiet_;
}

} // namespace tropilla
