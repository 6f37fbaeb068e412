// A shell around batcher: the batcher says what to compute, the actor sends it.
#include "actors/scheduler.hpp"

#include "actors/open_requests.hpp"
#include "src/schedule/idle_watch.hpp"
#include "src/schedule/stall_watch.hpp"

#include <deque>
#include <fmt/format.h>
#include <optional>
#include <set>
#include <utility>

namespace tropilla::cast {
namespace {

/// Looks in a row that find an answer still missing and no progress, after which the wait is given up.
constexpr std::size_t patience = 6;

/// Requests for an extent's memory that are refused before the batcher hears of it: bytes of what has just ended may
/// still be in flight.
constexpr std::size_t max_attempts = 5;
constexpr std::chrono::milliseconds between_attempts{10};

/// What the scheduler waits for: an answer of compute or of the sampler; `successor`: compute or the sampler ended
/// without an answer, and its supervisor has yet to replace it; `moves`: nothing can be computed before pages are
/// moved.
enum class awaited : std::uint8_t { nobody, compute, sampler, successor, moves };

std::string_view name_of(awaited whom) {
  constexpr std::string_view names[] = {"nobody", "compute", "the sampler", "a member that ended to be replaced",
                                        "pages to be saved or restored"};
  return names[static_cast<std::size_t>(whom)];
}

} // namespace

struct scheduler_state {
  static constexpr const char* actor_name = "scheduler";
  using clock = batcher::clock;

  scheduler_state(scheduler_actor::pointer s, scheduler_setup given)
      : self(s), setup(std::move(given)), batching(*setup.batching), idleness(setup.idle_after) {
    if (setup.trace)
      track = setup.trace->make_track("actor scheduler");
  }

  scheduler_actor::behavior_type behaviour() {
    watch_supervisors();
    batching.logits_lost(); // a scheduler that ended may have had them
    batching.extents_lost();
    if (setup.flow)
      perform(setup.flow->taken_over());
    resume();
    return {
        [this](const submit_request& m) -> caf::result<request_accepted> { return submit(m.request); },
        [this](const cancel_request& m) {
          batching.cancel(m.id, clock::now());
          proceed();
        },
        [this](const logits_read& m) -> caf::result<request_accepted> {
          batching.logits_consumed(m.id, clock::now());
          proceed();
          return request_accepted{m.id};
        },
        [this](const query_batch&) -> caf::result<batch_state> { return state(); },
        [this](const borrow_pages& m) -> caf::result<pages_lent> {
          auto answer = reading.add(self, m);
          proceed();
          return answer;
        },
        [this](const borrow_empty_pages& m) -> caf::result<pages_lent> { return lend_empty(m); },
        [this](const fill_pages& m) -> caf::result<pages_returned> {
          return taken_back(batching.take_filled(m.borrower, m.tokens));
        },
        [this](const return_pages& m) -> caf::result<pages_returned> {
          return taken_back(batching.give_back(m.borrower));
        },
        [this](const member_replaced&) {
          ++replacements;
          ++changes;
          if (waits_for == awaited::successor)
            return resume();
          proceed(); // idleness begins anew: it may read weights
        },
        [this](const member_down& m) {
          if (!down)
            down = error(errc::device_failed,
                         "the " + m.member + " ended unexpectedly (" + m.reason + "); open the runtime again");
          batching.fail_all(*down);
          waits_for = awaited::nobody;
        },
        [this](const supervisors_spawned&) { watch_supervisors(); },
        [this](const look_at_clock&) {
          alarm.reset();
          proceed();
        },
        [this](const pages_moved&) { moved(); },
        [this](const look_at_progress&) { look(); },
        [this](const change_budget& m) -> caf::result<budget_changed> { return change(m); },
        [this](const keep_placement& m) -> caf::result<placement_kept> {
          if (!setup.flow) // a replica's: nothing moves
            return placement_kept{};
          return keep(m);
        },
        [this](const ask_again& m) { ask_for(m.extent, m.attempt); },
        [this](const change_again& m) { perform(setup.flow->again(m.device)); },
    };
  }

  /// The exception may have left the batcher in the middle of a change, so no request goes on.
  void on_exception(const error& why) {
    retry_on_bad_alloc([&] { batching.fail_all(why); });
  }

  void watch_supervisors() {
    for (const auto& s : setup.supervisors)
      if (const auto supervisor = s.get())
        watch(s, supervisor);
  }

  void watch(const scheduler_setup::watched_supervisor& s, const caf::actor& supervisor) {
    if (!watched.insert(supervisor.address()).second)
      return; // it was there before the news of it
    others.watch(self, supervisor, [this, s, ended = supervisor.address()](const caf::error& reason) {
      if (const auto next = s.replace(ended)) { // else the runtime is being closed
        setup.supervisor_log.warning("a supervisor ended unexpectedly ({}) and is replaced", render(reason));
        watch(s, next);
      }
    });
  }

  [[nodiscard]] batch_state state() const {
    batch_state out{batching.usage(), batching.pages()};
    if (setup.flow) {
      out.page_limit = setup.flow->page_limit();
      const auto& moves = setup.flow->past_moves();
      out.moves.assign(moves.begin(), moves.end());
    }
    return out;
  }

  caf::result<request_accepted> submit(const sequence_request& request) {
    const trace_span span(setup.trace, track, "submit", "request", static_cast<std::int64_t>(request.id));
    if (down)
      return to_caf(*down);
    try {
      batching.submit(request);
    } catch (const error& e) {
      setup.log.debug("request {} is refused ({}): {}", request.id, to_string(e.code()), e.what());
      return to_caf(e);
    }
    proceed();
    return request_accepted{request.id};
  }

  /// Answers when there is memory for the pages, or when there is not.
  caf::typed_response_promise<pages_lent> lend_empty(const borrow_empty_pages& m) {
    auto answer = borrowing.add(self, m);
    const std::size_t missing = batching.pages_missing_for_loan(m.tokens);
    if (setup.flow && missing > 0) {
      setup.flow->want_pages(setup.flow->page_limit() + missing);
      wishes.emplace_back([](const std::optional<error>&) {}); // those who borrow are looked at whenever memory came
    }
    proceed();
    return answer;
  }

  /// Lends to those who have waited for memory, or for pages that were stored.
  void lend_waiting() {
    while (!reading.empty() && !batching.wait_for_beginning(reading.first().borrower, reading.first().tokens)) {
      const auto [borrower, tokens] = reading.first();
      reading.answer_first(pages_lent{batching.lend(borrower, tokens)});
    }
    while (!borrowing.empty() && wishes.empty() && !batching.wait_for_loan(borrowing.first().tokens)) {
      const auto [borrower, tokens] = borrowing.first();
      try {
        borrowing.answer_first(pages_lent{batching.lend_empty(borrower, tokens)});
      } catch (const error& e) {
        borrowing.answer_first(to_caf(e));
      }
    }
  }

  /// Pages came back: a request may have waited for them.
  pages_returned taken_back(bool valid) {
    proceed();
    return {valid};
  }

  /// Sends the step in flight again, or the next one.
  void resume() {
    waits_for = awaited::nobody;
    if (const auto current = batching.step_in_flight())
      send(current);
    else
      proceed();
  }

  /// Sends the next step, if there is one, and asks for the memory that is wanted.
  void proceed() {
    look_at_memory();
    if (const auto next = batching.next_step(clock::now()))
      send(next);
    look_at_memory(); // pages beyond a limit have gone
    lend_waiting();
    while (const auto move = batching.wanted_move()) {
      setup.move(move);
      batching.move_started();
    }
    if (waits_for == awaited::nobody && batching.waits_for_moves())
      begin_wait(awaited::moves);
    for (const auto extent : batching.take_wanted_extents())
      ask_for(extent, 0);
    if (idleness.look(!batching.idle(), setup.progress() + changes, clock::now()))
      trim();
    set_alarm();
  }

  /// A page came or went: a sequence may have waited for it.
  void moved() {
    if (waits_for == awaited::moves)
      waits_for = awaited::nobody;
    proceed();
  }

  void send(const std::shared_ptr<const step>& current) {
    const std::size_t logits = current->logit_rows.size() * setup.vocabulary;
    const auto number = begin_wait(awaited::compute);
    sent = clock::now();
    ask(self, setup.compute->get(), run_step{current})
        .then(
            [this, logits, number](const step_computed& m) {
              if (end_wait(number))
                computed(m, logits);
            },
            [this, number, known = replacements](const caf::error& e) {
              if (end_wait(number))
                not_computed(e, known);
            });
  }

  void computed(const step_computed& m, std::size_t logits) {
    const trace_span span(setup.trace, track, "step_computed");
    measure(m.times);
    const auto& draws =
        batching.step_done({m.output.logits, m.output.logits != nullptr ? logits : 0}, m.times, clock::now());
    if (draws.empty())
      return proceed();
    const auto number = begin_wait(awaited::sampler);
    ask(self, setup.sampler->get(), draw_tokens{m, setup.vocabulary, draws})
        .then(
            [this, number](const tokens_drawn& answer) {
              if (!end_wait(number))
                return;
              const trace_span emitted(setup.trace, track, "tokens_drawn", "tokens",
                                       static_cast<std::int64_t>(answer.tokens.size()));
              batching.drawn(answer.tokens, clock::now());
              proceed();
            },
            [this, number, known = replacements](const caf::error& e) {
              if (!end_wait(number))
                return;
              batching.logits_lost();
              not_computed(e, known);
            });
  }

  /// Compute or the sampler gave no answer. An error fails the step. Where the member ended, the step is sent to its
  /// successor: at once if any member was replaced since (`known_replacements`: how many were when it was sent), else
  /// when `member_replaced` comes.
  void not_computed(const caf::error& why, std::size_t known_replacements) {
    if (!is_gone(why)) {
      batching.step_failed(from_caf(why), clock::now());
      return proceed();
    }
    if (replacements != known_replacements)
      return resume();
    begin_wait(awaited::successor);
  }

  // -- memory ----

  void look_at_memory() {
    if (setup.flow)
      perform(setup.flow->look(clock::now()));
  }

  void measure(const step_times& times) {
    const auto step = batching.step_in_flight();
    if (!setup.flow || !step)
      return;
    const bool decodes = step->ids.size() == step->sequences.size() && step->logit_rows.size() == step->ids.size();
    const auto now = setup.totals();
    setup.flow->step_computed(decodes ? step->sequences.size() : 0, {times.compute, in_seconds(clock::now() - sent)},
                              now.bytes - read.bytes, now.seconds - read.seconds);
    read = now;
  }

  void perform(const memory_flow::actions& todo) {
    for (const auto& each : todo)
      std::visit([this](const auto& a) { act(a); }, each);
  }

  void act(const memory_flow::change& a) {
    const auto retry = [this, a](const caf::error& e) {
      if (is_gone(e)) // its successor, if there is one, is asked
        return tell_later(self, between_attempts, change_again{a.device});
      perform(setup.flow->not_changed(a.device, from_caf(e), clock::now()));
      proceed();
    };
    ask(self, setup.devices[a.device].supervisor(), change_placement{a.next_placement})
        .then(
            [this, device = a.device](const placement_changed&) {
              ++changes;
              perform(setup.flow->changed(device, clock::now()));
              proceed();
            },
            retry);
  }

  void act(const memory_flow::answer_wish& a) {
    const auto answer = std::move(wishes.front());
    wishes.pop_front();
    answer(a.failure);
  }

  caf::typed_response_promise<budget_changed> change(const change_budget& m) {
    setup.flow->want_budget(m.device, m.bytes);
    return answer_with_wish(budgets, m);
  }

  caf::typed_response_promise<placement_kept> keep(const keep_placement& m) {
    setup.flow->want_pages(batching.pages_of_context(), true);
    return answer_with_wish(keeping, m);
  }

  /// Keeps a request until the flow answers the wish that was made for it last.
  template <class Request, class Answer>
  caf::typed_response_promise<Answer> answer_with_wish(open_requests<Request, Answer>& open, const Request& m) {
    auto answer = open.add(self, m);
    wishes.emplace_back([&open](const std::optional<error>& failure) {
      if (failure)
        open.answer_first(to_caf(*failure));
      else
        open.answer_first(Answer{});
    });
    proceed();
    return answer;
  }

  /// Memory for one extent, as far as devices have answered.
  struct extent_request {
    std::vector<lease> memory; ///< by device
    std::size_t unanswered = 0;
    std::optional<std::string> refused;
    bool gone = false; ///< a memory manager is to be replaced
  };

  void ask_for(extent_number extent, std::size_t attempt) {
    const auto request = std::make_shared<extent_request>();
    request->memory.resize(setup.devices.size());
    request->unanswered = setup.devices.size();
    for (std::size_t i = 0; i < setup.devices.size(); ++i) {
      const auto& d = setup.devices[i];
      const memory_request bytes{d.name,       batching.pages_of(extent) * d.page_bytes,
                                 purpose::kv,  priority::normal,
                                 std::nullopt, d.commits_later};
      ask(self, d.memory_manager(), acquire_memory{bytes, false})
          .then(
              [this, request, i, extent, attempt](const memory_granted& m) {
                request->memory[i] = m.bytes;
                answered(extent, attempt, *request);
              },
              [this, request, extent, attempt](const caf::error& e) {
                request->gone = request->gone || is_gone(e);
                request->refused = from_caf(e).what();
                answered(extent, attempt, *request);
              });
    }
    if (setup.devices.empty()) { // no page has memory
      batching.extent_granted(extent, {});
      tell(self, scheduler_actor(self), look_at_clock{});
    }
  }

  void answered(extent_number extent, std::size_t attempt, extent_request& r) {
    if (--r.unanswered > 0)
      return;
    const bool again = r.gone ? !batching.idle() : attempt + 1 < max_attempts;
    if (r.refused && again) {
      r.memory.clear();
      return tell_later(self, between_attempts, ask_again{extent, r.gone ? attempt : attempt + 1});
    }
    for (std::size_t i = 0; i < r.memory.size() && !r.refused; ++i)
      r.refused = setup.devices[i].commit(r.memory[i]);
    if (r.refused)
      batching.extent_refused(extent, *r.refused);
    else
      batching.extent_granted(extent, std::move(r.memory));
    proceed();
  }

  /// Gives back what only the next request needs.
  void trim() {
    batching.idle_for_a_while();
    for (const auto& d : setup.devices) {
      tell(self, d.memory_manager(), trim_memory{d.name});
      tell(self, d.loader(), trim_staging{});
    }
    setup.on_idle();
  }

  // -- what is waited for ----

  /// The number of the wait, by which its answer is told from that of one which was given up.
  std::uint64_t begin_wait(awaited whom) {
    waits_for = whom;
    if (!std::exchange(looks, true))
      tell_later(self, setup.between_looks, look_at_progress{});
    return ++wait_number;
  }

  /// False: it was given up.
  bool end_wait(std::uint64_t number) {
    if (number != wait_number)
      return false;
    waits_for = awaited::nobody;
    return true;
  }

  void look() {
    looks = false;
    if (waits_for == awaited::nobody)
      return;
    if (waits_for == awaited::moves && batching.has_ended_moves())
      return moved(); // the news of it went to a scheduler that had ended
    if (stall.look(wait_number, setup.progress()))
      return give_up_wait();
    looks = true;
    tell_later(self, setup.between_looks, look_at_progress{});
  }

  void give_up_wait() {
    const std::chrono::duration<double> each = setup.between_looks;
    const error why(errc::device_failed,
                    fmt::format("nothing was read or computed for {:.0f} seconds while the reply waited for {}; what "
                                "was waited for is started anew, and the request may be made again",
                                each.count() * patience, name_of(waits_for)));
    setup.supervisor_log.error("{}", why.what());
    ++wait_number;
    waits_for = awaited::nobody;
    batching.fail_all(why);
    setup.end_members();
  }

  void set_alarm() {
    auto next = batching.next_timeout();
    if (const auto look = setup.flow ? setup.flow->next_look() : std::nullopt)
      next = std::min(next.value_or(*look), *look);
    if (const auto look = idleness.next_look())
      next = std::min(next.value_or(*look), *look);
    if (!next || (alarm && *alarm <= *next))
      return;
    alarm = next;
    const auto wait = *next - clock::now();
    tell_later(self, std::max(wait, clock::duration::zero()), look_at_clock{});
  }

  scheduler_actor::pointer self;
  scheduler_setup setup;
  batcher& batching;
  watcher others;
  std::set<caf::actor_addr> watched; ///< supervisors
  std::optional<error> down;
  awaited waits_for = awaited::nobody;
  std::uint64_t wait_number = 0; ///< how many there were
  bool looks = false;            ///< will look at the progress
  stall_watch stall{patience};
  idle_watch idleness;
  std::uint64_t changes = 0; ///< of placements and members: work that no step is
  std::size_t replacements = 0;
  read_totals read;         ///< when the last step was computed
  clock::time_point sent{}; ///< the step in flight
  open_requests<borrow_pages, pages_lent> reading;
  open_requests<borrow_empty_pages, pages_lent> borrowing;
  open_requests<change_budget, budget_changed> budgets;
  open_requests<keep_placement, placement_kept> keeping;
  std::deque<std::function<void(const std::optional<error>&)>> wishes; ///< answers those that the flow has, in order
  std::optional<clock::time_point> alarm;                              ///< when this looks at the clock
  tracer::track track = 0;
};

scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup) {
  return spawn<scheduler_actor, scheduler_state>(system, std::move(setup));
}

} // namespace tropilla::cast
