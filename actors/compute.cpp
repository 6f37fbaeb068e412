// A shell around step_runner: promises for those who ask, and messages and jobs for what it decides.
#include "actors/compute.hpp"

#include "actors/open_requests.hpp"
#include "src/schedule/step_runner.hpp"
#include "src/schedule/step_times.hpp"

#include <type_traits>
#include <utility>

namespace tropilla::cast {

struct compute_state {
  static constexpr const char* actor_name = "compute";

  compute_state(compute_actor::pointer s, compute_setup given)
      : self(s), setup(std::move(given)), track(setup.trace ? setup.trace->make_track("actor compute") : 0),
        jobs({setup.space, setup.dev, setup.number, setup.copies, setup.trace, setup.next_device}),
        executor(std::make_shared<inline_executor>(s->system())),
        runner(jobs.follow(setup.placement, std::exchange(setup.kept, {})), setup.next_compute != nullptr) {}

  compute_actor::behavior_type behaviour() {
    // A job of the compute before this one may still write to the buffers that a step begins with.
    if (setup.group) // a step of the compute before this one is nobody's any more
      setup.group->abort(error(errc::device_failed, "the compute that began the step ended"));
    setup.dev->compute_stream().record().then([me = compute_actor(self), on = executor] { on->tell(me, job_done{}); });
    go_on();
    return {
        [this](const run_step& m) { return later(in_line, m, &step_runner::step_wanted, !m.step->logit_rows.empty()); },
        [this](const job_done& m) { done(m); },
        [this](const await_weights& m) { return later(awaiting, m, &step_runner::residents_wanted); },
        [this](const share_weights& m) { return later(sharing, m, &step_runner::residents_wanted); },
        [this](const suspend_compute& m) {
          return later(suspending, m, &step_runner::suspension_wanted, m.next_placement);
        },
        [this](const resume_compute& m) {
          setup.pipeline = m.pipeline;
          runner.resume(jobs.follow(m.placement, m.kept));
          go_on();
        },
    };
  }

  // -- what happened --------------------------------------------------------------------------------------------------

  /// Keeps a request, tells the runner what is wanted, and goes on: the answer may follow at once.
  template <class Request, class Answer, class... Ts>
  caf::result<Answer> later(open_requests<Request, Answer>& open, const Request& m, void (step_runner::*wanted)(Ts...),
                            std::type_identity_t<Ts>... what) {
    const auto answer = open.add(self, m);
    (runner.*wanted)(std::move(what)...);
    go_on();
    return answer;
  }

  void done(const job_done& m) {
    const auto group_failure = jobs.group_failure();
    if (!runner.waits_for_predecessor()) {
      if (!group_failure)
        ++*setup.progress;
      clock.job_done(m.seconds);
      if (jobs.lost())
        return end_for_lost_mapping();
    }
    for (const auto g : runner.job_done()) {
      jobs.drop(g);
      tell(self, setup.pipeline.prefetcher, release_group{g});
    }
    if (group_failure)
      runner.fail(*group_failure);
    go_on();
  }

  /// What a job computed with weights that were lost is worth nothing. Ends this actor, as a bug would: its successor
  /// has the weights loaded and the step computed again.
  void end_for_lost_mapping() const {
    setup.log.warning(
        "{}: the packed weights that are mapped were changed, cut short or can't be read: all weights are "
        "loaded into memory, and the step is computed again",
        setup.dev->name());
    self->quit(to_caf(error(errc::io_error, "packed weights that are mapped were lost")));
  }

  // -- what to do -----------------------------------------------------------------------------------------------------

  /// Does what the runner decides, until it waits.
  void go_on() {
    while (const auto todo = decide())
      std::visit([this](const auto& a) { act(a); }, *todo);
  }

  /// Does a part of a step; what a copy, or the memory for one, refuses ends the step.
  template <class F>
  void try_to(F f) {
    try {
      f();
    } catch (const error& e) {
      runner.fail(e);
    }
  }

  std::optional<step_runner::action> decide() {
    if (const auto broken = runner.may_go_on() ? setup.dev->failure() : std::nullopt)
      runner.fail(*broken);
    // No device waits for this one then, and no job of a compute that ended meets the next step.
    if (const error* why = runner.step_failure())
      jobs.fail_group(*why);
    return runner.decide();
  }

  void act(const step_runner::suspend& a) {
    const auto next_placement = std::static_pointer_cast<const weight_placement>(a.next_placement);
    suspending.answer_if(compute_suspended{next_placement, jobs.leave_for(*next_placement)},
                         [&](const suspend_compute& m) { return m.next_placement == next_placement; });
  }

  void act(const step_runner::tell_residents&) {
    awaiting.answer_all(weights_resident{});
    sharing.answer_all(weights_shared{jobs.placement(), jobs.resident()});
  }

  void act(const step_runner::refuse_residents& a) {
    awaiting.answer_all(to_caf(a.why));
    sharing.answer_all(to_caf(a.why));
  }

  void act(const step_runner::begin&) {
    const auto& [step, from, given] = in_line.first();
    const trace_span span(setup.trace, track, "run_step", "tokens", static_cast<std::int64_t>(step->ids.size()));
    const auto group = setup.group ? setup.group->next() : given;
    jobs.begin(*step, from, group ? (*group)[jobs.placement()->layout.share.rank] : nullptr);
    clock.step_begins();
    ask_others(from, group);
    go_on(); // what the step sets in motion belongs to the span
  }

  /// The step ends when all have answered.
  void ask_others(const hidden_input& from, const std::shared_ptr<const group_ends>& group) {
    gone = {};
    runner.others_asked(setup.others.size());
    for (const auto& other : setup.others)
      ask(self, other->get(), run_step{jobs.shared_step(), from, group})
          .then(
              [this](const step_computed&) {
                runner.other_done();
                go_on();
              },
              [this](const caf::error& e) {
                if (is_gone(e))
                  gone = e;
                runner.other_failed(from_caf(e));
                go_on();
              });
  }

  void act(const step_runner::announce& a) {
    if (jobs.placement()->plan.ring_slots > 0)
      tell(self, setup.pipeline.prefetcher, announce_step{a.with_logits});
    if (a.lookup)
      bring<embedding_ready>(
          setup.pipeline.loader, look_up_embedding{jobs.shared_step(), jobs.hidden()},
          [this, tag = *a.lookup](const embedding_ready&) { return runner.embedding_arrived(tag); },
          [this, tag = *a.lookup](const error& e) { return runner.embedding_failed(tag, e); });
  }

  void act(const step_runner::ask& a) {
    for (const auto& r : a.requests)
      bring<group_ready>(
          setup.pipeline.prefetcher, need_group{r.group},
          [this, r](const group_ready& m) {
            const bool in_time = runner.arrived(m.group, r.tag);
            if (in_time)
              jobs.take(m.group, m.weights);
            return in_time;
          },
          [this, r](const error& e) { return runner.failed(r.group, r.tag, e); });
  }

  void act(const step_runner::compute& a) {
    try_to([&] {
      jobs.enqueue(a.first, a.last, a.ends_step,
                   [me = compute_actor(self), on = executor](double seconds) { on->tell(me, job_done{seconds}); });
    });
  }

  void act(const step_runner::hand_on&) {
    try_to([&] { hand_on(jobs.hand_on()); });
  }

  void hand_on(const hidden_input& rows) {
    ask(self, setup.next_compute->get(), run_step{jobs.shared_step(), rows})
        .then(
            [this](step_computed m) { // its answer is ours
              clock.add_to(m.times, setup.meter->busy_ns);
              end_step(false, m);
              go_on();
            },
            [this](const caf::error& e) {
              end_step(false, e);
              go_on();
            });
  }

  void act(const step_runner::finish&) {
    try_to([&] { finish(jobs.output()); });
  }

  void finish(const step_output& output) {
    step_computed answer{output, {}};
    clock.add_to(answer.times, setup.meter->busy_ns);
    setup.log.trace("{}: a step of {} tokens in {} sequences is computed in {:.4f} s", setup.dev->name(),
                    jobs.current().ids.size(), jobs.current().sequences.size(), answer.times.compute);
    end_step(false, answer);
  }

  void act(const step_runner::give_up& a) {
    setup.log.log(a.why.code() == errc::device_failed ? log_level::error : log_level::warning,
                  "{}: a step of {} tokens is given up: {}", setup.dev->name(), jobs.current().ids.size(),
                  a.why.what());
    tell(self, setup.pipeline.prefetcher, abandon_step{});
    end_step(true, gone ? gone : to_caf(a.why));
  }

  /// Asks one of the pipeline, and goes on with the answer where that is not too late.
  template <class Answer, class Handle, class Request, class Arrived, class Failed>
  void bring(const Handle& from, const Request& m, Arrived arrived, Failed failed) {
    ask(self, from, m)
        .then(
            [this, arrived](const Answer& a) {
              if (arrived(a))
                go_on();
            },
            [this, failed](const caf::error& e) {
              if (!is_gone(e) && failed(from_caf(e))) // gone: it is to be replaced
                go_on();
            });
  }

  template <class Result>
  void end_step(bool given_up, const Result& result) {
    for (const auto g : runner.end(given_up))
      jobs.drop(g);
    jobs.end();
    in_line.answer_first(result);
  }

  compute_actor::pointer self;
  compute_setup setup;
  tracer::track track;
  step_jobs jobs;
  std::shared_ptr<inline_executor> executor; ///< of the compute stream's thread, which may outlive this
  step_runner runner;
  step_clock clock;
  caf::error gone; ///< of another device's compute that ended in this step, for the one who asked
  open_requests<await_weights, weights_resident> awaiting;
  open_requests<share_weights, weights_shared> sharing;
  open_requests<suspend_compute, compute_suspended> suspending;
  open_requests<run_step, step_computed> in_line; ///< the first may be in flight
  // The runner counts what these four hold: `later` tells it of each, and what it decides answers them.
};

compute_actor spawn_compute(caf::actor_system& system, compute_setup setup) {
  return spawn<compute_actor, compute_state>(system, std::move(setup));
}

} // namespace tropilla::cast
