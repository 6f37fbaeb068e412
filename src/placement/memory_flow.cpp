// One move at a time: the limit of pages falls, devices change their placements, the limit rises.
#include "src/placement/memory_flow.hpp"

#include <algorithm>
#include <utility>

namespace tropilla {
namespace {

/// Tokens that sequences are to have pages for, beyond those that they have. The first one has to go on whatever it
/// costs, and moves fewer times as it grows with many. Others are at all stages of their replies, and what one gives
/// back another takes, so that a page more for each is nearer to what they have at once than their whole replies:
/// with 128 tokens for all, 16 streams of SmolLM2-135M in 125 MiB had weights streamed for pages that they could do
/// without, and gave 0.86 of the tokens per second.
constexpr std::size_t first_horizon = 128, horizon = 32;
/// Between two looks at what is wanted, while steps are computed.
constexpr std::chrono::milliseconds between_looks{20};

/// Whether a device that follows one placement has nothing to do for another.
bool is_same(const weight_placement& a, const weight_placement& b) {
  return a.budget == b.budget && a.plan.streamed == b.plan.streamed && a.plan.ring_slots == b.plan.ring_slots &&
         a.layout.tile_rows == b.layout.tile_rows && a.layout.embedding_on_disk() == b.layout.embedding_on_disk();
}

} // namespace

memory_flow::memory_flow(memory_flow_setup setup) : setup_(std::move(setup)) {
  if (setup_.trace)
    track_ = setup_.trace->make_track("memory moves");
  set_limit(page_limit());
}

void memory_flow::set_limit(std::size_t pages, bool by_force) {
  setup_.batching->set_page_limit(pages, by_force);
  setup_.pledge(pages);
}

void memory_flow::want_budget(std::size_t device, std::size_t bytes) {
  wishes_.emplace_back(budget_wish{device, bytes});
}

void memory_flow::want_pages(std::size_t pages, bool for_replica) {
  wishes_.emplace_back(pages_wish{pages, for_replica});
}

memory_flow::actions memory_flow::look(clock::time_point now) {
  while (phase_ == phase::none && !wishes_.empty() && !wish_in_flight_)
    begin_wish(now);
  if (phase_ == phase::none)
    decide(now);
  if (phase_ == phase::lowering && setup_.batching->within_page_limit())
    change_devices(now);
  return take_actions();
}

void memory_flow::decide(clock::time_point now) {
  auto& batching = *setup_.batching;
  const bool starved = batching.wants_pages();
  if (!starved && next_look_ && now < *next_look_)
    return;
  next_look_ = now + between_looks;
  settled_ = batching.idle() && now >= setup_.balance->rests_until().value_or(now);
  std::optional<memory_move> move;
  if (!setup_.pinned())
    move = setup_.balance->decide(batching.page_demand(first_horizon, horizon), batching.pages_held_by_use(), now);
  if (!move && starved && !setup_.pinned()) {
    auto more = setup_.balance->with_pages(page_limit() + 1);
    if (more.kv_pages > page_limit() && more.fits())
      move = memory_move{std::move(more), "the only reply needs another page"};
  }
  if (move)
    return begin(std::move(*move), false, now);
  if (starved)
    batching.no_more_pages(error(errc::over_budget, "there are no bytes for another KV page: the budget has room for "
                                                    "no more beside the weights that stay"));
}

std::optional<memory_flow::clock::time_point> memory_flow::next_look() const noexcept {
  if (phase_ != phase::none || settled_ || !next_look_ || !setup_.batching->idle())
    return std::nullopt;
  return std::max(*next_look_, setup_.balance->rests_until().value_or(*next_look_));
}

// -- wishes ----

void memory_flow::begin_wish(clock::time_point now) {
  try {
    auto move = std::visit([this](const auto& w) { return move_for(w); }, wishes_.front());
    if (move)
      begin(std::move(*move), true, now);
    wish_in_flight_ = true;
    if (!move)
      end_wish({});
  } catch (const error& e) {
    end_wish(e);
  }
}

std::optional<memory_move> memory_flow::move_for(const budget_wish& w) {
  if (setup_.pinned())
    throw error(errc::invalid_argument,
                "replicas use the weights that are in memory: the budget can change when they are closed");
  return setup_.balance->for_budget(w.device, w.bytes, setup_.batching->page_demand(first_horizon, horizon),
                                    setup_.batching->pages_held_by_use());
}

std::optional<memory_move> memory_flow::move_for(const pages_wish& w) {
  if (w.pages <= page_limit() || (setup_.pinned() && !w.for_replica))
    return std::nullopt;
  auto more = setup_.balance->with_pages(w.pages);
  if (!more.fits())
    return std::nullopt;
  return memory_move{std::move(more), w.for_replica ? "a replica begins" : "a session is restored"};
}

void memory_flow::end_wish(const std::optional<error>& failure) {
  wish_in_flight_ = false;
  wishes_.pop_front();
  todo_.emplace_back(answer_wish{failure});
}

// -- moves ----

void memory_flow::begin(memory_move move, bool by_force, clock::time_point now) {
  setup_.log.info("memory moves: {}", move.reason);
  move_ = std::move(move);
  began_ = now;
  settled_ = false;
  refusal_.reset();
  phase_ = phase::lowering;
  set_limit(std::min(move_.to.kv_pages, page_limit()), by_force);
}

void memory_flow::change_devices(clock::time_point now) {
  phase_ = phase::changing;
  reached_ = setup_.balance->current();
  awaited_.assign(reached_.placements.size(), false);
  for (std::size_t d = 0; d < awaited_.size(); ++d)
    awaited_[d] = !is_same(*reached_.placements[d], *move_.to.placements[d]);
  ask_awaited();
  end_if_done(now);
}

void memory_flow::ask_awaited() {
  for (std::size_t d = 0; d < awaited_.size(); ++d)
    if (awaited_[d])
      todo_.emplace_back(change{d, move_.to.placements[d]});
}

memory_flow::actions memory_flow::changed(std::size_t device, clock::time_point now) {
  if (phase_ != phase::changing || !awaited_[device])
    return {};
  awaited_[device] = false;
  reached_.placements[device] = move_.to.placements[device];
  end_if_done(now);
  return take_actions();
}

memory_flow::actions memory_flow::not_changed(std::size_t device, const error& why, clock::time_point now) {
  if (phase_ != phase::changing || !awaited_[device])
    return {};
  awaited_[device] = false;
  refusal_ = why;
  end_if_done(now);
  return take_actions();
}

void memory_flow::end_if_done(clock::time_point now) {
  if (std::ranges::find(awaited_, true) != awaited_.end())
    return;
  if (!refusal_) {
    reached_ = move_.to;
  } else { // some devices moved and others did not
    setup_.log.warning("memory stays as it was: {}", refusal_->what());
    reached_.streamed_bytes = 0;
    reached_.kv_pages = setup_.batching->pages();
    for (const auto& p : reached_.placements) {
      reached_.streamed_bytes += p->streamed_bytes();
      reached_.kv_pages = std::min(reached_.kv_pages, p->plan.kv_pages);
    }
  }
  if (setup_.trace)
    setup_.trace->record(track_, move_.reason, began_, now, "pages", static_cast<std::int64_t>(reached_.kv_pages));
  past_.push_front({began_, now, reached_.kv_pages, reached_.streamed_bytes, std::move(move_.reason)});
  if (past_.size() > max_past_moves)
    past_.pop_back();
  phase_ = phase::none;
  setup_.balance->moved(std::move(reached_), now);
  set_limit(page_limit());
  if (refusal_ && setup_.batching->wants_pages())
    setup_.batching->no_more_pages(*refusal_);
  if (wish_in_flight_)
    end_wish(refusal_);
}

memory_flow::actions memory_flow::again(std::size_t device) {
  if (phase_ == phase::changing && awaited_[device])
    todo_.emplace_back(change{device, move_.to.placements[device]});
  return take_actions();
}

memory_flow::actions memory_flow::taken_over() {
  wishes_.clear();
  wish_in_flight_ = false;
  todo_.clear();
  if (phase_ == phase::changing)
    ask_awaited();
  return take_actions();
}

void memory_flow::step_computed(std::size_t decoding, const step_seconds& took, std::size_t read, double read_seconds) {
  if (decoding > 0)
    setup_.balance->step_computed(decoding, took);
  if (read > 0)
    setup_.balance->weights_read(read, read_seconds);
}

} // namespace tropilla
