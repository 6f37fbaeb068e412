// Answers from what is there, asked for, computed and suspended.
#include "src/schedule/step_runner.hpp"

#include <algorithm>
#include <utility>

namespace tropilla {

void step_runner::follow(step_groups groups) {
  groups_ = std::move(groups);
  asked_.assign(groups_.there.size(), false);
  ++epoch_;
}

std::vector<step_runner::question> step_runner::questions() {
  std::vector<question> out;
  if (suspended_)
    return out;
  for (std::size_t g = 0; g < groups_.there.size(); ++g) {
    const bool streamed = groups_.streamed[g];
    if (groups_.there[g] || asked_[g] || (streamed && (!in_step_ || g < next_ || g >= step_end_)))
      continue;
    asked_[g] = true;
    out.push_back({g, {epoch_, streamed ? std::optional(steps_) : std::nullopt}});
  }
  return out;
}

bool step_runner::arrived(std::size_t group, const ticket& stamp) {
  if (is_late(stamp))
    return false;
  groups_.there[group] = true;
  asked_[group] = false;
  return true;
}

bool step_runner::failed(std::size_t group, const ticket& stamp, const error& why) {
  if (is_late(stamp))
    return false;
  asked_[group] = false;
  if (in_step_ && !failure_)
    failure_ = why;
  return true;
}

bool step_runner::all_resident_there() const {
  for (std::size_t g = 0; g < groups_.there.size(); ++g)
    if (!groups_.there[g] && !groups_.streamed[g])
      return false;
  return true;
}

void step_runner::begin(bool output) {
  in_step_ = true;
  output_ = output;
  handed_on_ = false;
  rows_there_ = false;
  next_ = groups_.begin;
  failure_.reset();
}

std::optional<step_runner::ticket> step_runner::start() {
  step_end_ = output_ ? groups_.end : std::min(groups_.end, groups_.output);
  rows_there_ = next_ != 0 || !groups_.embedding_on_disk;
  return rows_there_ ? std::nullopt : std::optional(ticket{epoch_, steps_});
}

bool step_runner::rows_arrived(const ticket& stamp) {
  if (is_late(stamp))
    return false;
  rows_there_ = true;
  return true;
}

bool step_runner::rows_failed(const ticket& stamp, const error& why) {
  if (is_late(stamp))
    return false;
  failure_ = why;
  return true;
}

step_runner::decision step_runner::decide() {
  using what = decision::what;
  if (!may_go_on())
    return {};
  if (next_ == step_end_) {
    handed_on_ = hands_on_;
    return {hands_on_ ? what::hand_on : what::finish};
  }
  if (failure_)
    return {what::give_up};
  if (!rows_there_)
    return {};
  std::size_t last = next_;
  while (last < step_end_ && groups_.there[last])
    if (groups_.streamed[last++])
      break;
  if (last == next_)
    return {};
  job_out_ = true;
  return {what::compute, std::exchange(next_, last), last};
}

std::vector<std::size_t> step_runner::job_done() {
  job_out_ = false;
  return std::exchange(inherits_, false) ? std::vector<std::size_t>{} : drop_streamed(next_);
}

std::vector<std::size_t> step_runner::end(bool given_up) {
  auto dropped = given_up ? drop_streamed(groups_.there.size()) : std::vector<std::size_t>{};
  in_step_ = false;
  ++steps_;
  for (std::size_t g = 0; g < asked_.size(); ++g)
    asked_[g] = asked_[g] && !groups_.streamed[g];
  return dropped;
}

void step_runner::suspend() {
  suspended_ = true;
  ++epoch_;
  groups_.there.assign(groups_.there.size(), false);
}

void step_runner::resume(step_groups groups) {
  follow(std::move(groups));
  suspended_ = false;
}

std::vector<std::size_t> step_runner::drop_streamed(std::size_t end) {
  std::vector<std::size_t> out;
  for (std::size_t g = 0; g < end; ++g)
    if (groups_.streamed[g] && groups_.there[g]) {
      groups_.there[g] = false;
      out.push_back(g);
    }
  return out;
}

} // namespace tropilla
