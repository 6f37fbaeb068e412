// A shell around the sequencer: it says what to compute, the actor sends it.
#include "actors/scheduler.hpp"

#include <optional>

namespace tropilla::cast {

struct scheduler_state {
  static inline const char* actor_name = "scheduler";
  using clock = sequencer::clock;

  scheduler_state(scheduler_actor::pointer s, scheduler_setup setup)
      : self(s), with(std::move(setup)), queue(*with.tok, with.shape, with.pages) {
    if (with.trace)
      row = with.trace->make_row("actor scheduler");
  }

  ~scheduler_state() {
    queue.fail_all(down ? *down : error(errc::cancelled, "the runtime was closed before the reply ended"));
  }

  scheduler_actor::behavior_type behaviour() {
    return {
        [this](const submit_request& m) -> caf::result<request_accepted> { return submit(m.request); },
        [this](const cancel_request& m) {
          queue.cancel(m.id);
          proceed();
        },
        [this](const logits_read& m) {
          queue.logits_consumed(m.id, clock::now());
          proceed();
        },
        [this](const member_down& m) {
          if (!down)
            down = error(errc::device_failed,
                         "the " + m.member + " ended unexpectedly (" + m.reason + "); open the runtime again");
          queue.fail_all(*down);
        },
    };
  }

  caf::result<request_accepted> submit(const sequence_request& request) {
    const trace_span span(with.trace, row, "submit", "request", static_cast<std::int64_t>(request.id));
    if (down)
      return to_caf(*down);
    try {
      check_request(request, with.vocabulary, with.shape.context);
    } catch (const error& e) {
      return to_caf(e);
    }
    queue.submit(request);
    proceed();
    return request_accepted{request.id};
  }

  /// Sends the next step, if there is one.
  void proceed() {
    const auto work = queue.next_step(clock::now());
    if (!work)
      return;
    const std::size_t logits = work->logit_rows.size() * with.vocabulary;
    ask(self, with.compute, run_step{work})
        .then([this, logits](const step_computed& m) { computed(m, logits); },
              [this](const caf::error& e) {
                queue.step_failed(from_caf(e));
                proceed();
              });
  }

  void computed(const step_computed& m, std::size_t logits) {
    const trace_span span(with.trace, row, "step_computed");
    const auto then = queue.step_done({m.logits, logits}, m.times, clock::now());
    if (!then.sample)
      return proceed();
    ask(self, with.sampler, draw_token{m.logits, with.vocabulary, then.sampling, then.draw_index})
        .then(
            [this](const token_drawn& drawn) {
              const trace_span emitted(with.trace, row, "token_drawn", "token", drawn.token);
              queue.sampled(drawn.token, clock::now());
              proceed();
            },
            [this](const caf::error& e) {
              queue.step_failed(from_caf(e));
              proceed();
            });
  }

  scheduler_actor::pointer self;
  scheduler_setup with;
  sequencer queue;
  std::optional<error> down;
  tracer::row row = 0;
};

scheduler_actor spawn_scheduler(caf::actor_system& system, scheduler_setup setup) {
  return spawn<scheduler_actor, scheduler_state>(system, std::move(setup));
}

} // namespace tropilla::cast
