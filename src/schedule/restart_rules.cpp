// A state machine around one weight pipeline: running, compute suspended or gone, leaving, spawned again.
#include "src/schedule/restart_rules.hpp"

namespace tropilla {

restart_rules::actions restart_rules::member_ended(std::size_t member, const std::string& name,
                                                   const std::string& reason, std::uint64_t progress) {
  actions out;
  if (may_restart(name, reason, progress, out)) {
    out.emplace_back(replace_member{member});
    out.emplace_back(tell_replaced{});
    return out;
  }
  report(name, reason, out);
  out.emplace_back(give_up_member{member, error(errc::device_failed, "the " + name + " ended unexpectedly (" + reason +
                                                                         ") again and again; open the runtime again")});
  return out;
}

restart_rules::actions restart_rules::pipeline_member_ended(const std::string& name, const std::string& reason,
                                                            std::uint64_t progress) {
  actions out;
  --members_left_;
  if (given_up_)
    return out;
  if (suspended_ || compute_gone_) { // it was stopped
    spawn_when_gone(out);
    return out;
  }
  if (restarting_)
    return out;
  if (!may_restart(name + " of " + device_, reason, progress, out))
    return give_up(name, reason);
  restarting_ = true;
  out.emplace_back(suspend_compute{current_});
  return out;
}

restart_rules::actions restart_rules::compute_ended(const std::string& reason, std::uint64_t progress) {
  actions out;
  if (given_up_)
    return out;
  if (!may_restart("compute of " + device_, reason, progress, out))
    return give_up("compute", reason);
  suspended_ = false;
  kept_.clear(); // it went with compute
  compute_gone_ = true;
  stop(out);
  return out;
}

restart_rules::actions restart_rules::change(placement next_placement) {
  actions out;
  if (given_up_) {
    out.emplace_back(answer_change{given_up_});
    return out;
  }
  changes_.push_back(std::move(next_placement));
  if (changes_.size() == 1 && !compute_gone_)
    begin_change(out);
  return out;
}

restart_rules::actions restart_rules::suspended(placement next_placement, std::vector<lease> kept) {
  actions out;
  if (compute_gone_ || given_up_)
    return out;
  // While compute stands still for a change, it also answers the suspension of a restart that the change overtook. That
  // answer may come after compute was resumed: nobody waits for it then.
  const bool restarts = restarting_ && next_placement == current_;
  if (suspended_ ? is_first_change(suspended_for_) : !restarts && !is_first_change(next_placement))
    return out;
  suspended_ = true;
  suspended_for_ = std::move(next_placement);
  kept_ = std::move(kept);
  stop(out);
  return out;
}

restart_rules::actions restart_rules::pipeline_spawned() {
  actions out;
  members_left_ = pipeline_members;
  current_ = std::move(spawning_);
  if (compute_gone_) {
    out.emplace_back(spawn_compute{});
    return out;
  }
  suspended_ = false;
  out.emplace_back(resume_compute{current_, std::exchange(kept_, {})});
  if (is_first_change(suspended_for_)) {
    changes_.pop_front();
    out.emplace_back(answer_change{std::exchange(refusal_, std::nullopt)});
    begin_change(out);
  }
  return out;
}

restart_rules::actions restart_rules::compute_spawned() {
  compute_gone_ = false;
  actions out;
  out.emplace_back(tell_replaced{});
  begin_change(out);
  return out;
}

restart_rules::actions restart_rules::spawn_failed(const error& why) {
  kept_.clear();
  if (suspended_ && is_first_change(suspended_for_) && !refusal_) {
    refusal_ = why;
    spawning_ = current_;
    actions out;
    out.emplace_back(log_refusal{why.what()});
    out.emplace_back(spawn_pipeline{spawning_});
    return out;
  }
  return give_up("weight pipeline", why.what());
}

/// Counts a start; false when there were too many without progress.
bool restart_rules::may_restart(const std::string& name, const std::string& reason, std::uint64_t progress,
                                actions& out) {
  if (!limit_.allows_another(progress))
    return false;
  ++restarts_;
  out.emplace_back(log_restart{name, reason, limit_.starts()});
  return true;
}

void restart_rules::report(const std::string& name, const std::string& reason, actions& out) {
  down_.push_back(name + ": " + reason);
  out.emplace_back(tell_down{name, reason});
}

/// Pipeline and compute get no successors, and all changes the reason.
restart_rules::actions restart_rules::give_up(const std::string& name, const std::string& reason) {
  actions out;
  report(name, reason, out);
  given_up_.emplace(errc::device_failed,
                    "the " + name + " ended unexpectedly (" + reason + "); open the runtime again");
  out.emplace_back(close_compute{*given_up_});
  for (; !changes_.empty(); changes_.pop_front())
    out.emplace_back(answer_change{given_up_});
  return out;
}

/// Compute stands still, or is gone: the pipeline leaves, and its leases come back.
void restart_rules::stop(actions& out) {
  out.emplace_back(stop_pipeline{});
  spawn_when_gone(out);
}

void restart_rules::spawn_when_gone(actions& out) {
  if (members_left_ > 0)
    return;
  restarting_ = false;
  spawning_ = suspended_ && is_first_change(suspended_for_) ? suspended_for_ : current_;
  if (suspended_for_ != spawning_) // a suspension that was overtaken by a change
    kept_.clear();
  out.emplace_back(spawn_pipeline{spawning_});
}

void restart_rules::begin_change(actions& out) const {
  if (!changes_.empty())
    out.emplace_back(suspend_compute{changes_.front()});
}

} // namespace tropilla
