// Walks the groups of a step; what is not there yet is waited for without holding a thread.
#include "actors/compute.hpp"

#include <chrono>
#include <optional>

namespace tropilla::cast {

struct compute_state {
  static inline const char* actor_name = "compute";
  using clock = std::chrono::steady_clock;

  /// Shared with the job that is out, which may run when this actor has ended. Jobs read only what was set before them
  /// and stays meanwhile.
  struct loaded_weights {
    explicit loaded_weights(std::size_t groups) : leases(groups), memory(groups, nullptr) {}
    std::vector<lease> leases;
    std::vector<const std::byte*> memory; ///< of the groups that are there
  };

  compute_state(compute_actor::pointer s, compute_setup setup)
      : self(s), with(std::move(setup)), here(std::make_shared<conductor>(s->system())),
        weights(std::make_shared<loaded_weights>(with.layout->groups.size())) {
    if (with.trace) {
      row = with.trace->make_row("actor compute");
      stream_row = with.trace->make_row("stream " + std::string(with.dev->name()) + " compute");
    }
  }

  compute_actor::behavior_type behaviour() {
    need_groups(false);
    return {
        [this](const run_step& m) -> caf::result<step_computed> { return begin(m); },
        [this](const segment_done& m) {
          busy = false;
          seconds += m.seconds;
          release_before(next);
          advance();
        },
    };
  }

  /// Asks for all groups that are streamed, or for all that stay.
  void need_groups(bool streamed) {
    for (std::size_t g = 0; g < with.streamed.size(); ++g) {
      if (with.streamed[g] != streamed)
        continue;
      ask(self, with.prefetcher, need_group{g})
          .then(
              [this](const group_ready& m) {
                weights->leases[m.group] = m.weights;
                weights->memory[m.group] = m.weights.data();
                advance();
              },
              [this](const caf::error& e) {
                failure = from_caf(e);
                advance();
              });
    }
  }

  /// Gives streamed groups back whose job is done.
  void release_before(std::size_t end) {
    for (std::size_t g = 0; g < end; ++g) {
      if (!with.streamed[g] || !weights->leases[g])
        continue;
      weights->memory[g] = nullptr;
      weights->leases[g].reset();
      tell(self, with.prefetcher, release_group{g});
    }
  }

  caf::typed_response_promise<step_computed> begin(const run_step& m) {
    const trace_span span(with.trace, row, "run_step", "rows", static_cast<std::int64_t>(m.work->ids.size()));
    promise = self->make_response_promise<step_computed>();
    current = m.work;
    next = 0;
    seconds = 0;
    const auto answer = *promise;
    need_groups(true);
    advance();
    return answer;
  }

  /// Enqueues the groups that are there, or answers when the step is done.
  void advance() {
    if (!current || busy)
      return;
    if (next == weights->memory.size()) {
      settle([this](auto& p) { p.deliver(step_computed{with.space->floats(buffer::logits), seconds}); });
      return;
    }
    std::size_t last = next;
    while (last < weights->memory.size() && weights->memory[last])
      ++last;
    if (last > next)
      enqueue(std::exchange(next, last), last);
    else if (failure)
      settle([this](auto& p) { p.deliver(to_caf(*failure)); });
  }

  void enqueue(std::size_t first, std::size_t last) {
    busy = true;
    const compute_actor me = self;
    // Written by lane 0 alone at the job's start and read after its end.
    const auto began = std::make_shared<clock::time_point>();
    with.dev->enqueue(
        [layout = with.layout, space = with.space, work = current, w = weights, first, last, began](ops& o) {
          if (o.lane() == 0)
            *began = clock::now();
          forward_groups(o, *layout, *space, *work, w->memory, first, last);
        });
    // The stream's thread runs what follows (this actor, the scheduler, the sampler): it has nothing to do before them.
    with.dev->compute_stream().record().then([me, began, first, last, trace = with.trace, r = stream_row, on = here] {
      const auto end = clock::now();
      if (trace)
        trace->record(r, first + 1 == last ? "group" : "groups", *began, end, "first",
                      static_cast<std::int64_t>(first));
      on->tell(me, segment_done{std::chrono::duration<double>(end - *began).count()});
    });
  }

  template <class F>
  void settle(F deliver) {
    auto p = *std::exchange(promise, std::nullopt);
    current.reset();
    deliver(p);
  }

  compute_actor::pointer self;
  compute_setup with;
  std::shared_ptr<conductor> here; ///< of the compute stream's thread, which may outlive this
  std::shared_ptr<loaded_weights> weights;
  std::optional<error> failure;

  std::shared_ptr<const step> current;
  std::optional<caf::typed_response_promise<step_computed>> promise;
  std::size_t next = 0; ///< first group of the step that is not enqueued
  bool busy = false;    ///< a job is out
  double seconds = 0;
  tracer::row row = 0, stream_row = 0;
};

compute_actor spawn_compute(caf::actor_system& system, compute_setup setup) {
  return spawn<compute_actor, compute_state>(system, std::move(setup));
}

} // namespace tropilla::cast
