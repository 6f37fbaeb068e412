// Decides from what is present, asked for, wanted, computed and suspended.
#include "src/schedule/step_runner.hpp"

#include <algorithm>

namespace tropilla {

void step_runner::follow(step_groups groups) {
  groups_ = std::move(groups);
  asked_.assign(groups_.present.size(), false);
  ++epoch_;
}

std::optional<step_runner::action> step_runner::decide() {
  if (!job_in_flight_)
    if (auto next_placement = suspensions_.take_due(groups_.placement, in_step_)) {
      ++epoch_;
      groups_.present.assign(groups_.present.size(), false);
      return suspend{std::move(next_placement)};
    }
  if (residents_wanted_ && all_resident_present()) {
    residents_wanted_ = false;
    return tell_residents{};
  }
  if (refusal_)
    return refuse_residents{*std::exchange(refusal_, std::nullopt)};
  if (suspended())
    return std::nullopt;
  if (announces_)
    return announce_step();
  if (std::exchange(asks_, false))
    if (auto requests = next_requests(); !requests.empty())
      return ask{std::move(requests)};
  if (!in_line_.empty() && !in_step_ && !waits_for_predecessor_) {
    begin_step();
    return begin{};
  }
  return go_on();
}

std::vector<step_runner::group_request> step_runner::next_requests() {
  std::vector<group_request> out;
  for (std::size_t g = 0; g < groups_.present.size(); ++g) {
    const bool streamed = groups_.streamed[g];
    if (groups_.present[g] || asked_[g] || (streamed && (!in_step_ || g < next_group_ || g >= step_end_)))
      continue;
    asked_[g] = true;
    out.push_back({g, {epoch_, streamed ? std::optional(steps_) : std::nullopt}});
  }
  return out;
}

bool step_runner::arrived(std::size_t group, const request_tag& tag) {
  if (is_late(tag))
    return false;
  groups_.present[group] = true;
  asked_[group] = false;
  return true;
}

bool step_runner::failed(std::size_t group, const request_tag& tag, const error& why) {
  if (is_late(tag))
    return false;
  asked_[group] = false;
  if (std::exchange(residents_wanted_, false))
    refusal_ = why;
  const bool wanted = group >= next_group_ && group < step_end_; // by this step
  if (in_step_ && wanted && !failure_)
    failure_ = why;
  return true;
}

bool step_runner::all_resident_present() const {
  for (std::size_t g = 0; g < groups_.present.size(); ++g)
    if (!groups_.present[g] && !groups_.streamed[g])
      return false;
  return true;
}

void step_runner::begin_step() {
  with_logits_ = in_line_.front();
  in_line_.erase(in_line_.begin());
  in_step_ = announces_ = true;
  handed_on_ = false;
  next_group_ = groups_.begin;
  failure_.reset();
  broken_ = false;
}

step_runner::announce step_runner::announce_step() {
  announces_ = false;
  asks_ = true;
  step_end_ = with_logits_ ? groups_.end : std::min(groups_.end, groups_.norm_group);
  embedding_present_ = next_group_ != 0 || !groups_.embedding_on_disk;
  return {with_logits_, embedding_present_ ? std::nullopt : std::optional(request_tag{epoch_, steps_})};
}

bool step_runner::embedding_arrived(const request_tag& tag) {
  if (is_late(tag))
    return false;
  embedding_present_ = true;
  return true;
}

bool step_runner::embedding_failed(const request_tag& tag, const error& why) {
  if (is_late(tag))
    return false;
  failure_ = why;
  return true;
}

/// What follows for the step.
std::optional<step_runner::action> step_runner::go_on() {
  if (!may_go_on())
    return std::nullopt;
  const bool ends = broken_ || failure_ || next_group_ == step_end_;
  if (ends && others_ > 0)
    return std::nullopt;
  if (broken_)
    return give_up{*failure_};
  if (next_group_ == step_end_) {
    if (!hands_on_)
      return finish{};
    handed_on_ = true;
    return hand_on{};
  }
  if (failure_)
    return give_up{*failure_};
  if (!embedding_present_)
    return std::nullopt;
  std::size_t last = next_group_;
  while (last < step_end_ && groups_.present[last])
    if (groups_.streamed[last++])
      break;
  if (last == next_group_)
    return std::nullopt;
  job_in_flight_ = true;
  return compute{std::exchange(next_group_, last), last, last == step_end_};
}

void step_runner::fail(const error& why) {
  job_in_flight_ = handed_on_ = false;
  failure_ = why;
  broken_ = true;
}

void step_runner::other_failed(const error& why) {
  --others_;
  broken_ = true;
  if (!failure_)
    failure_ = why;
}

std::vector<std::size_t> step_runner::job_done() {
  job_in_flight_ = false;
  return std::exchange(waits_for_predecessor_, false) ? std::vector<std::size_t>{} : drop_streamed(next_group_);
}

std::vector<std::size_t> step_runner::end(bool given_up) {
  auto dropped = given_up ? drop_streamed(groups_.present.size()) : std::vector<std::size_t>{};
  in_step_ = false;
  ++steps_;
  for (std::size_t g = 0; g < asked_.size(); ++g)
    asked_[g] = asked_[g] && !groups_.streamed[g];
  return dropped;
}

void step_runner::resume(step_groups groups) {
  follow(std::move(groups));
  suspensions_.resume();
  announces_ = in_step_;
  asks_ = true;
}

std::vector<std::size_t> step_runner::drop_streamed(std::size_t end) {
  std::vector<std::size_t> out;
  for (std::size_t g = 0; g < end; ++g)
    if (groups_.streamed[g] && groups_.present[g]) {
      groups_.present[g] = false;
      out.push_back(g);
    }
  return out;
}

} // namespace tropilla
