// A shell around batcher: the batcher says what to compute, the actor sends it.
#include "actors/scheduler.hpp"

#include "src/schedule/stall_watch.hpp"

#include <fmt/format.h>
#include <optional>
#include <set>

namespace tropilla::cast {
namespace {

/// Looks in a row that find an answer still missing and no progress, after which the wait is given up.
constexpr std::size_t patience = 6;

/// What the scheduler waits for: an answer of compute or of the sampler; `successor`: compute or the sampler ended
/// without an answer, and its supervisor has yet to replace it.
enum class awaited : std::uint8_t { nobody, compute, sampler, successor };

std::string_view name_of(awaited whom) {
  constexpr std::string_view names[] = {"nobody", "compute", "the sampler", "a member that ended to be replaced"};
  return names[static_cast<std::size_t>(whom)];
}

} // namespace

struct scheduler_state {
  static constexpr const char* actor_name = "scheduler";
  using clock = batcher::clock;

  scheduler_state(scheduler_actor::pointer s, scheduler_setup given)
      : self(s), setup(std::move(given)), batching(*setup.batching) {
    if (setup.trace)
      track = setup.trace->make_track("actor scheduler");
  }

  scheduler_actor::behavior_type behaviour() {
    watch_supervisors();
    batching.logits_lost(); // a scheduler that ended may have had them
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
        [this](const query_batch&) -> caf::result<batch_state> { return batch_state{batching.usage()}; },
        [this](const borrow_pages& m) -> caf::result<pages_lent> {
          return pages_lent{batching.lend(m.borrower, m.tokens)};
        },
        [this](const borrow_empty_pages& m) { return lend_empty(m); },
        [this](const fill_pages& m) -> caf::result<pages_returned> {
          return taken_back(batching.take_filled(m.borrower, m.tokens));
        },
        [this](const return_pages& m) -> caf::result<pages_returned> {
          return taken_back(batching.give_back(m.borrower));
        },
        [this](const member_replaced&) {
          ++replacements;
          if (waits_for == awaited::successor)
            resume();
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
        [this](const look_at_progress&) { look(); },
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
    others.watch(self, supervisor, [this, s](const caf::error& reason) {
      if (const auto next = s.replace()) { // else the runtime is being closed
        setup.supervisor_log.warning("a supervisor ended unexpectedly ({}) and is replaced", render(reason));
        watch(s, next);
      }
    });
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

  caf::result<pages_lent> lend_empty(const borrow_empty_pages& m) {
    try {
      return pages_lent{batching.lend_empty(m.borrower, m.tokens)};
    } catch (const error& e) {
      return to_caf(e);
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

  /// Sends the next step, if there is one.
  void proceed() {
    if (const auto next = batching.next_step(clock::now()))
      send(next);
    set_alarm();
  }

  void send(const std::shared_ptr<const step>& current) {
    const std::size_t logits = current->logit_rows.size() * setup.vocabulary;
    const auto number = begin_wait(awaited::compute);
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
    const auto next = batching.next_timeout();
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
  std::size_t replacements = 0;
  std::optional<clock::time_point> alarm; ///< when this looks at the clock
  tracer::track track = 0;
};

scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup) {
  return spawn<scheduler_actor, scheduler_state>(system, std::move(setup));
}

} // namespace tropilla::cast
