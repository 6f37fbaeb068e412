// Resident groups are queued, leased and loaded; streamed groups take the ring's slots in turn.
#include "src/schedule/weight_ring.hpp"

#include <algorithm>
#include <utility>

namespace tropilla {
namespace {

// Leases and loads of resident groups in flight: enough that pages of later groups are made while earlier ones are
// read, packed and compared: with three the first token of SmolLM2-135M comes 5% later. More only takes leases early.
constexpr std::size_t max_resident_loads = 12;
/// One is computed with while the other is filled.
constexpr std::size_t min_slots = 2;

} // namespace

weight_ring::weight_ring(weight_ring_setup setup)
    : setup_(std::move(setup)), groups_(setup_.groups.size()),
      depth_(setup_.slots, setup_.spare_bytes, setup_.slot_bytes) {
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    switch (setup_.groups[g]) {
    case group_kind::no_load:
      groups_[g].state = group_state::ready;
      break;
    case group_kind::resident:
      groups_[g].state = group_state::queued;
      queue_.push_back(g);
      break;
    case group_kind::streamed:
      streamed_.push_back(g);
      streamed_before_norm_ += g < setup_.norm_group ? 1 : 0;
      break;
    }
  }
  groups_per_step_ = streamed_.size();
}

weight_ring::actions weight_ring::start() {
  fetch_resident();
  for (std::size_t i = 0; i < setup_.slots; ++i)
    todo_.emplace_back(lease_slot{});
  return take_actions();
}

weight_ring::actions weight_ring::take_actions() noexcept {
  return std::exchange(todo_, {});
}

weight_ring::actions weight_ring::needed(std::size_t group, waiter who, clock::time_point now) {
  auto& g = groups_[group];
  if (is_ready(group)) {
    deliver_to(who, group, now);
    return take_actions();
  }
  g.waiting.push_back(who);
  if (streams(group)) {
    for (; slots_refused_ > 0; --slots_refused_)
      todo_.emplace_back(lease_slot{});
    unblock(now);
  } else if (g.state == group_state::failed) { // it failed before: once more
    g.state = group_state::queued;
    queue_.push_back(group);
    fetch_resident();
  }
  return take_actions();
}

bool weight_ring::is_ready(std::size_t group) noexcept {
  if (!streams(group))
    return groups_[group].state == group_state::ready;
  const auto* const s = slot_of(group);
  return s && s->filled();
}

void weight_ring::deliver_to(waiter who, std::size_t group, clock::time_point now) {
  if (!streams(group)) {
    todo_.emplace_back(deliver{who, group, groups_[group].weights});
    return;
  }
  auto& s = *slot_of(group);
  if (s.state != slot_state::held)
    s.since = now;
  s.state = slot_state::held;
  todo_.emplace_back(deliver{who, group, s.memory});
}

void weight_ring::deliver_to_waiters(std::size_t group, clock::time_point now) {
  for (const auto who : std::exchange(groups_[group].waiting, {}))
    deliver_to(who, group, now);
}

void weight_ring::fail_waiters(std::size_t group, const error& why) {
  for (const auto who : std::exchange(groups_[group].waiting, {}))
    todo_.emplace_back(fail{who, why});
}

weight_ring::actions weight_ring::loaded(std::size_t group, clock::time_point now) {
  if (streams(group))
    streamed_loaded(group, now);
  else
    resident_loaded(group, now);
  return take_actions();
}

weight_ring::actions weight_ring::load_failed(std::size_t group, const error& why, clock::time_point now) {
  if (streams(group))
    streamed_failed(group, why, now);
  else
    resident_failed(group, why);
  return take_actions();
}

// -- resident groups ----

/// Keeps `max_resident_loads` in flight. Leases are asked for in order, too, so that none waits behind a later one.
void weight_ring::fetch_resident() {
  for (; !queue_.empty() && in_flight_ < max_resident_loads; ++in_flight_) {
    groups_[queue_.front()].state = group_state::in_flight;
    todo_.emplace_back(lease_group{queue_.front()});
    queue_.pop_front();
  }
}

weight_ring::actions weight_ring::group_leased(std::size_t group, const lease& block) {
  groups_[group].weights = block;
  todo_.emplace_back(load{group, block});
  return take_actions();
}

weight_ring::actions weight_ring::group_refused(std::size_t group, const error& why) {
  resident_failed(group, why);
  return take_actions();
}

void weight_ring::resident_loaded(std::size_t group, clock::time_point now) {
  --in_flight_;
  groups_[group].state = group_state::ready;
  deliver_to_waiters(group, now);
  fetch_resident();
}

void weight_ring::resident_failed(std::size_t group, const error& why) {
  --in_flight_;
  groups_[group].state = group_state::failed;
  groups_[group].weights.reset();
  fail_waiters(group, why);
  fetch_resident();
}

// -- the ring ----

weight_ring::actions weight_ring::slot_leased(const lease& memory, clock::time_point now) {
  slots_.push_back({memory});
  todo_.emplace_back(count_slots{slots_.size()});
  fill(now);
  return take_actions();
}

/// A ring that has slots enough goes on with them: the plan may have no more, and what grows it is not needed. Fewer
/// are refused for no plan that fits; the slot is asked for again with the next need.
weight_ring::actions weight_ring::slot_refused(const error& why) {
  if (slots_.size() >= min_slots) {
    setup_.log.debug("{}: the ring stays with its {} slots, for one more is refused: {}", setup_.device, slots_.size(),
                     why.what());
    return {};
  }
  setup_.log.warning("a slot of the ring is refused and asked for again in the next step: {}", why.what());
  ++slots_refused_;
  for (const auto g : streamed_)
    if (!slot_of(g))
      fail_waiters(g, why);
  return take_actions();
}

weight_ring::slot* weight_ring::slot_of(std::size_t group) noexcept {
  const auto s = std::ranges::find_if(
      slots_, [group](const slot& other) { return other.state != slot_state::empty && other.group == group; });
  return s == slots_.end() ? nullptr : &*s;
}

std::size_t weight_ring::position_of(std::size_t group) const noexcept {
  return static_cast<std::size_t>(std::ranges::find(streamed_, group) - streamed_.begin());
}

/// The first group that a step needs and no slot has, if there is one. Those before it are never left out, whatever
/// became of their loads: steps give groups back in order, and would wait for ever behind groups that they hold.
std::optional<std::size_t> weight_ring::next_without_slot() noexcept {
  for (std::size_t i = 0; i < groups_per_step_; ++i)
    if (const std::size_t group = streamed_[(next_needed_ + i) % groups_per_step_]; !slot_of(group))
      return group;
  return std::nullopt;
}

/// How many streamed groups are needed before it.
std::size_t weight_ring::distance_of(std::size_t group) const noexcept {
  return (position_of(group) + streamed_.size() - next_needed_) % streamed_.size();
}

/// Fills the empty slots with the groups that a step needs next; behind the last one comes the first again, for the
/// next step.
void weight_ring::fill(clock::time_point now) {
  for (auto& s : slots_) {
    if (s.state != slot_state::empty)
      continue;
    const auto next = next_without_slot();
    if (!next)
      return;
    s = {std::move(s.memory), slot_state::loading, *next, now};
    todo_.emplace_back(load{*next, s.memory});
  }
}

weight_ring::actions weight_ring::step_announced(bool with_logits, clock::time_point now) {
  groups_per_step_ = with_logits ? streamed_.size() : streamed_before_norm_;
  fill(now);
  return take_actions();
}

weight_ring::slot* weight_ring::arrived_slot(std::size_t group, clock::time_point now) {
  auto* const s = slot_of(group);
  depth_.arrived(s->since, now);
  return s;
}

void weight_ring::streamed_loaded(std::size_t group, clock::time_point now) {
  auto& s = *arrived_slot(group, now);
  if (s.state == slot_state::stale) { // even if it is waited for by now: it would keep a slot from those before it
    s.state = slot_state::empty;
  } else {
    s.state = slot_state::ready;
    deliver_to_waiters(group, now);
  }
  fill(now);
  unblock(now);
}

/// Waiters of the group give the step up, and a later need has the group tried again. Where the group had no waiter,
/// other waiters may need its slot.
void weight_ring::streamed_failed(std::size_t group, const error& why, clock::time_point now) {
  arrived_slot(group, now)->state = slot_state::empty;
  fail_waiters(group, why);
  const auto awaited = awaited_without_slot();
  if (awaited && std::ranges::none_of(slots_, [](const slot& s) { return s.loading() || s.state == slot_state::held; }))
    start_over(*awaited, now);
}

weight_ring::actions weight_ring::released(std::size_t group, clock::time_point now) {
  auto* const s = slot_of(group);
  if (!s || s->state != slot_state::held)
    return {};
  const std::size_t behind = position_of(group) + 1;
  next_needed_ = behind < groups_per_step_ ? behind : 0;
  depth_.released(s->since, now, is_ready(streamed_[behind % std::max<std::size_t>(1, groups_per_step_)]));
  s->state = slot_state::empty;
  adjust_depth();
  fill(now);
  unblock(now);
  return take_actions();
}

/// The position in `streamed_` of the first group that is waited for and has no slot.
std::optional<std::size_t> weight_ring::awaited_without_slot() noexcept {
  for (std::size_t position = 0; position < streamed_.size(); ++position)
    if (!groups_[streamed_[position]].waiting.empty() && !slot_of(streamed_[position]))
      return position;
  return std::nullopt;
}

/// Where a group that is waited for has no slot, and none will come free by itself, the ring holds what nobody asked
/// for.
void weight_ring::unblock(clock::time_point now) {
  const auto awaited = awaited_without_slot();
  if (!awaited)
    return;
  if (std::ranges::any_of(slots_, [](const slot& s) { return s.state != slot_state::ready; }))
    fill(now);
  else
    start_over(*awaited, now);
}

void weight_ring::start_over(std::size_t position, clock::time_point now) {
  next_needed_ = position;
  for (auto& s : slots_)
    if (!s.loading())
      s.state = slot_state::empty;
  sort_out_loads();
  fill(now);
}

/// Loads of the first groups that are needed stay wanted; other loads become stale.
void weight_ring::sort_out_loads() noexcept {
  for (auto& s : slots_)
    if (s.loading())
      s.state = distance_of(s.group) < slots_.size() ? slot_state::loading : slot_state::stale;
}

weight_ring::actions weight_ring::step_abandoned(clock::time_point now) {
  setup_.log.debug("{}: the step was given up, and the ring begins anew", setup_.device);
  const error why(errc::cancelled, "the step was given up");
  for (const auto g : streamed_)
    fail_waiters(g, why);
  start_over(0, now);
  return take_actions();
}

/// Between two fillings, so that a slot that goes is empty.
void weight_ring::adjust_depth() {
  switch (depth_.advice(slots_.size())) {
  case ring_depth::change::none:
    return;
  case ring_depth::change::grow:
    setup_.log.debug("{}: the ring gets a slot more than its {}, for steps wait for weights", setup_.device,
                     slots_.size());
    todo_.emplace_back(lease_slot{});
    return;
  case ring_depth::change::shrink:
    setup_.log.debug("{}: the ring gives up one of its {} slots, for no step waited for weights lately", setup_.device,
                     slots_.size());
    return drop_slot();
  }
}

void weight_ring::drop_slot() {
  const auto s = std::ranges::find(slots_, slot_state::empty, &slot::state);
  if (s == slots_.end())
    return;
  slots_.erase(s);
  sort_out_loads();
  todo_.emplace_back(count_slots{slots_.size()});
}

/// The group that is needed last goes.
weight_ring::actions weight_ring::shrink() {
  if (slots_.size() <= min_slots)
    return {};
  setup_.log.debug("{}: the ring gives up one of its {} slots, for others need the bytes", setup_.device,
                   slots_.size());
  slot* last = nullptr;
  for (auto& s : slots_)
    if (s.state == slot_state::ready && (!last || distance_of(s.group) > distance_of(last->group)))
      last = &s;
  if (last)
    last->state = slot_state::empty;
  drop_slot();
  return take_actions();
}

} // namespace tropilla
