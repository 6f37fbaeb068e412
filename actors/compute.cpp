// A shell around step_runner: it asks for groups and enqueues the jobs that the runner decides on.
#include "actors/compute.hpp"

#include "src/schedule/step_runner.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

namespace tropilla::cast {
namespace {

/// What the runner knows of a placement.
step_groups groups_of(const weight_placement& placement, const std::vector<lease>& kept) {
  const auto& layout = placement.layout;
  step_groups out{placement.plan.streamed, std::vector<bool>(layout.groups.size()),
                  layout.begin_group(),    layout.end_group(),
                  layout.norm_group(),     layout.embedding_on_disk()};
  for (std::size_t g = 0; g < out.there.size(); ++g)
    out.there[g] = placement.is_present(g, kept);
  return out;
}

} // namespace

struct compute_state {
  static constexpr const char* actor_name = "compute";

  compute_state(compute_actor::pointer s, compute_setup given)
      : self(s), setup(std::move(given)), track(setup.trace ? setup.trace->make_track("actor compute") : 0),
        jobs({setup.space, setup.dev, std::exchange(setup.pages, {}), setup.copies, setup.trace, setup.next_dev}),
        here(std::make_shared<inline_executor>(s->system())),
        runner(groups_of(*setup.weights, setup.kept), setup.next != nullptr) {
    jobs.follow(setup.weights, std::exchange(setup.kept, {}));
  }

  compute_actor::behavior_type behaviour() {
    // A job of the compute before this one may still write to the buffers that a step begins with.
    setup.dev->compute_stream().record().then([me = compute_actor(self), on = here] { on->tell(me, job_done{}); });
    ask_for_groups();
    return {
        [this](const run_step& m) -> caf::result<step_computed> {
          pending_response<step_computed> wanted(self);
          const auto later = wanted.promise();
          in_line.push_back({m, std::move(wanted)});
          begin_next();
          return later;
        },
        [this](const job_done& m) { done(m); },
        [this](const await_weights&) -> caf::result<weights_resident> { return wait_for_weights(awaiting); },
        [this](const share_weights&) -> caf::result<weights_shared> { return wait_for_weights(sharing); },
        [this](const suspend_weights& m) -> caf::result<weights_suspended> {
          pending_response<weights_suspended> wanted(self);
          const auto later = wanted.promise();
          suspensions.push_back({m.next, std::move(wanted)});
          (void)suspend_if_wanted();
          return later;
        },
        [this](const resume_weights& m) { resume(m); },
    };
  }

  // -- weights ----

  void ask_for_groups() {
    for (const auto& [g, stamp] : runner.questions())
      ask(self, setup.pipeline.prefetcher, need_group{g})
          .then(
              [this, stamp = stamp](const group_ready& m) {
                if (!runner.arrived(m.group, stamp))
                  return;
                jobs.take(m.group, m.weights);
                answer_waiting();
                advance();
              },
              [this, g = g, stamp = stamp](const caf::error& e) {
                if (is_gone(e) || !runner.failed(g, stamp, from_caf(e))) // gone: it is to be replaced
                  return;
                refuse_waiting(to_caf(from_caf(e)));
                advance();
              });
  }

  template <class Answer>
  caf::typed_response_promise<Answer> wait_for_weights(std::vector<pending_response<Answer>>& waiting) {
    auto later = waiting.emplace_back(self).promise();
    ask_for_groups(); // what failed before is tried again
    answer_waiting();
    return later;
  }

  void answer_waiting() {
    if (!runner.all_resident_there())
      return;
    for (auto& waiting : std::exchange(awaiting, {}))
      waiting.deliver(weights_resident{});
    for (auto& waiting : std::exchange(sharing, {}))
      waiting.deliver(weights_shared{jobs.placement(), jobs.resident()});
  }

  void refuse_waiting(const caf::error& why) {
    for (auto& waiting : std::exchange(awaiting, {}))
      waiting.deliver(why);
    for (auto& waiting : std::exchange(sharing, {}))
      waiting.deliver(why);
  }

  // -- another weight pipeline ----------------------------------------------------------------------------------------

  /// Answers suspensions as soon as compute may stand still. True when it does.
  bool suspend_if_wanted() {
    if (!runner.may_suspend(false))
      return false;
    if (runner.suspended()) { // for a supervisor that ended, with the leases that it got
      for (auto& s : std::exchange(suspensions, {}))
        s.promise.deliver(weights_suspended{s.next, std::vector<lease>(s.next->layout.groups.size())});
      return true;
    }
    const auto changes = [this](const suspension& s) { return s.next != jobs.placement(); };
    auto it = std::ranges::find_if_not(suspensions, changes);
    if (it == suspensions.end() && runner.may_suspend(true))
      it = suspensions.begin();
    if (it == suspensions.end())
      return false;
    const auto wanted = it->next;
    const weights_suspended answer{wanted, jobs.leave_for(*wanted)};
    runner.suspend();
    std::erase_if(suspensions, [&](suspension& s) { // also of a supervisor that followed one that ended
      if (s.next == wanted)
        s.promise.deliver(answer);
      return s.next == wanted;
    });
    return true;
  }

  void resume(const resume_weights& m) {
    setup.pipeline = m.pipeline;
    jobs.follow(m.weights, m.kept);
    runner.resume(groups_of(*m.weights, m.kept));
    if (suspend_if_wanted())
      return;
    answer_waiting();
    if (runner.in_step())
      start();
    else
      ask_for_groups();
    begin_next();
  }

  // -- steps ----

  void begin_next() {
    if (!runner.may_begin() || in_line.empty())
      return;
    const run_step m = std::move(in_line.front().asked);
    promise = std::move(in_line.front().promise);
    in_line.pop_front();
    const trace_span span(setup.trace, track, "run_step", "rows", static_cast<std::int64_t>(m.work->ids.size()));
    jobs.begin(*m.work, m.from);
    runner.begin(!m.work->logit_rows.empty());
    compute_seconds = 0;
    if (!runner.suspended())
      start();
  }

  /// Has brought what the step needs from where it stands.
  void start() {
    const auto lookup = runner.start();
    if (jobs.placement()->plan.ring_slots > 0)
      tell(self, setup.pipeline.prefetcher, begin_step{!jobs.current().logit_rows.empty()});
    if (lookup)
      ask(self, setup.pipeline.loader, look_up_embedding{jobs.shared_step(), jobs.hidden()})
          .then(
              [this, stamp = *lookup](const embedding_ready&) {
                if (runner.rows_arrived(stamp))
                  advance();
              },
              [this, stamp = *lookup](const caf::error& e) {
                if (!is_gone(e) && runner.rows_failed(stamp, from_caf(e)))
                  advance();
              });
    ask_for_groups();
    advance();
  }

  void done(const job_done& m) {
    if (!runner.inherits()) {
      ++*setup.progress;
      compute_seconds += m.seconds;
      if (jobs.lost())
        return give_way();
    }
    for (const auto g : runner.job_done()) {
      jobs.drop(g);
      tell(self, setup.pipeline.prefetcher, release_group{g});
    }
    if (suspend_if_wanted())
      return;
    begin_next();
    advance();
  }

  /// What a job computed with weights that were lost is worth nothing. Ends this actor, as a bug would: its successor
  /// has the weights loaded and the step computed again.
  void give_way() const {
    setup.log.warning(
        "{}: the packed weights that are mapped were changed, cut short or can't be read: all weights are "
        "loaded into memory, and the step is computed again",
        setup.dev->name());
    self->quit(to_caf(error(errc::io_error, "packed weights that are mapped were lost")));
  }

  /// Does what the runner decides, until it waits or the step is over.
  void advance() {
    if (!runner.may_go_on())
      return;
    try {
      if (const auto broken = setup.dev->failure())
        return give_up(*broken);
      switch (const auto now = runner.decide(); now.to_do) {
      case step_runner::decision::what::wait:
        return;
      case step_runner::decision::what::compute:
        return jobs.enqueue(now.first, now.last, runner.is_last(now.last),
                            [me = compute_actor(self), on = here](double seconds) { on->tell(me, job_done{seconds}); });
      case step_runner::decision::what::hand_on:
        return hand_on();
      case step_runner::decision::what::finish:
        return finish();
      case step_runner::decision::what::give_up:
        return give_up(error(runner.failure()));
      }
    } catch (const error& e) { // of a copy, or of the memory for one
      runner.not_enqueued();
      give_up(e);
    }
  }

  void finish() {
    const step_computed answer{jobs.output(), {compute_seconds, load_seconds()}};
    setup.log.trace("{}: a step of {} tokens in {} sequences is computed in {:.4f} s", setup.dev->name(),
                    jobs.current().ids.size(), jobs.current().sequences.size(), compute_seconds);
    end_step(false, [&](auto& p) { p.deliver(answer); });
  }

  void give_up(const error& why) {
    setup.log.log(why.code() == errc::device_failed ? log_level::error : log_level::warning,
                  "{}: a step of {} tokens is given up: {}", setup.dev->name(), jobs.current().ids.size(), why.what());
    tell(self, setup.pipeline.prefetcher, abandon_step{});
    end_step(true, [&](auto& p) { p.deliver(to_caf(why)); });
  }

  /// The next device goes on, and its answer is ours.
  void hand_on() {
    ask(self, setup.next->get(), run_step{jobs.shared_step(), jobs.hand_on()})
        .then(
            [this](step_computed m) {
              m.times.compute += compute_seconds;
              m.times.load += load_seconds();
              end_step(false, [&](auto& p) { p.deliver(m); });
            },
            [this](const caf::error& e) { end_step(false, [&](auto& p) { p.deliver(e); }); });
  }

  template <class F>
  void end_step(bool given_up, F deliver) {
    auto p = *std::exchange(promise, std::nullopt);
    for (const auto g : runner.end(given_up))
      jobs.drop(g);
    jobs.end();
    deliver(p);
    if (!suspend_if_wanted())
      begin_next();
  }

  /// That the loader was busy since the last call.
  double load_seconds() {
    const auto now = setup.meter->busy_ns.load();
    return static_cast<double>(now - std::exchange(load_seen, now)) * 1e-9;
  }

  struct suspension {
    std::shared_ptr<const weight_placement> next;
    pending_response<weights_suspended> promise;
  };
  struct step_in_line {
    run_step asked;
    pending_response<step_computed> promise;
  };

  compute_actor::pointer self;
  compute_setup setup;
  tracer::track track;
  step_jobs jobs;
  std::shared_ptr<inline_executor> here; ///< of the compute stream's thread, which may outlive this
  step_runner runner;
  std::vector<pending_response<weights_resident>> awaiting;
  std::vector<pending_response<weights_shared>> sharing;
  std::vector<suspension> suspensions;
  std::deque<step_in_line> in_line;
  std::optional<pending_response<step_computed>> promise; ///< of the step
  double compute_seconds = 0;                             ///< of the step
  std::int64_t load_seen = 0;
};

compute_actor spawn_compute(caf::actor_system& system, compute_setup setup) {
  return spawn<compute_actor, compute_state>(system, std::move(setup));
}

} // namespace tropilla::cast
