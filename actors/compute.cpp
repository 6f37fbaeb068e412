// Walks the groups of a step; what is not there yet is waited for without holding a thread.
#include "actors/compute.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <numeric>
#include <optional>
#include <utility>

namespace tropilla::cast {

struct compute_state {
  static constexpr const char* actor_name = "compute";
  using clock = std::chrono::steady_clock;

  /// Shared with the job that is out, which may run when this actor has ended. Jobs read only what was set before them
  /// and stays meanwhile.
  struct loaded_weights {
    explicit loaded_weights(std::shared_ptr<const weight_placement> a)
        : placement(std::move(a)), leases(placement->layout.groups.size()), memory(leases.size(), nullptr) {}
    std::shared_ptr<const weight_placement> placement;
    std::vector<lease> leases;
    std::vector<const std::byte*> memory; ///< of the groups that are there
  };

  /// What a job reads and writes.
  struct job {
    const llama_workspace* space;
    std::shared_ptr<const step> work;
    std::shared_ptr<loaded_weights> weights;
    clock::time_point began; ///< written by worker 0 alone at the job's start, and read after its end
  };

  /// Copies what the device before computed.
  static void take_over(ops& o, const loaded_weights& w, const llama_workspace& space,
                        const std::vector<std::size_t>& rows, const float* from) {
    o.gather_rows(from, w.placement->layout.config.width, rows, space.floats(buffer::hidden));
  }

  compute_state(compute_actor::pointer s, compute_setup given)
      : self(s), setup(std::move(given)),
        pages(std::make_shared<const std::vector<std::byte*>>(std::exchange(setup.pages, {}))),
        here(std::make_shared<inline_executor>(s->system())) {
    if (setup.trace) {
      track = setup.trace->make_track("actor compute");
      stream_track = setup.trace->make_track("stream " + std::string(setup.dev->name()) + " compute");
    }
    follow(setup.weights, std::exchange(setup.kept, {}));
  }

  compute_actor::behavior_type behaviour() {
    // A job of the compute before this one may still write to the buffers that a step begins setup.
    setup.dev->compute_stream().record().then([me = compute_actor(self), on = here] { on->tell(me, job_done{}); });
    need_groups();
    return {
        [this](const run_step& m) -> caf::result<step_computed> {
          pending_response<step_computed> wanted(self);
          const auto later = wanted.promise();
          in_line.push_back({m, std::move(wanted)});
          begin_next();
          return later;
        },
        [this](const job_done& m) {
          busy = false;
          if (std::exchange(inherits, false)) {
            if (!suspend_if_wanted())
              begin_next();
            return;
          }
          ++*setup.progress;
          times.compute += m.seconds;
          if (lost_weights())
            return;
          release_before(next);
          if (!suspend_if_wanted())
            advance();
        },
        [this](const await_weights&) -> caf::result<weights_resident> {
          const auto later = awaiting.emplace_back(self).promise();
          need_groups(); // what failed before is tried again
          answer_awaiting();
          return later;
        },
        [this](const share_weights&) -> caf::result<weights_shared> {
          const auto later = sharing.emplace_back(self).promise();
          need_groups();
          answer_awaiting();
          return later;
        },
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

  /// Mapped weights may have changed under the job that has ended: what it computed is worth nothing. Ends this actor,
  /// as a bug would: its successor has the weights loaded and the step computed again. True when it does.
  bool lost_weights() {
    if (!watches_mapping || !weights->placement->mapping->lost())
      return false;
    setup.log.warning(
        "{}: the packed weights that are mapped were changed, cut short or can't be read: all weights are "
        "loaded into memory, and the step is computed again",
        setup.dev->name());
    self->quit(to_caf(error(errc::io_error, "packed weights that are mapped were lost")));
    return true;
  }

  /// Begins with an placement and those of its groups that are there.
  void follow(std::shared_ptr<const weight_placement> placement, const std::vector<lease>& kept) {
    weights = std::make_shared<loaded_weights>(std::move(placement));
    const std::size_t n = weights->leases.size();
    asked.assign(n, false);
    there.assign(n, false);
    for (std::size_t g = 0; g < n; ++g) {
      there[g] = weights->placement->layout.groups[g].bytes == 0;
      if (g < kept.size() && kept[g])
        take(g, kept[g]);
    }
    // A mapping that was lost before has only memory of its own for those who come now.
    const auto& mapping = weights->placement->mapping;
    watches_mapping =
        mapping && (std::ranges::any_of(kept, [](const lease& l) { return static_cast<bool>(l); }) || !mapping->lost());
    ++epoch;
  }

  void take(std::size_t g, const lease& memory) {
    weights->leases[g] = memory;
    weights->memory[g] = memory.data();
    there[g] = true;
  }

  /// Asks for what is not there: all groups that stay, and in a step those that it still has to compute.
  void need_groups() {
    if (suspended)
      return;
    for (std::size_t g = 0; g < there.size(); ++g) {
      const bool streamed = weights->placement->streams(g);
      if (there[g] || asked[g] || (streamed && (!current || g < next || g >= step_end)))
        continue;
      asked[g] = true;
      ask(self, setup.pipeline.prefetcher, need_group{g})
          .then(
              [this, streamed, asked_in = epoch, step = steps](const group_ready& m) {
                if (asked_in == epoch)
                  arrived(m, streamed && step != steps);
              },
              [this, g, streamed, asked_in = epoch, step = steps](const caf::error& e) {
                if (asked_in == epoch && !is_gone(e)) // else it is to be replaced
                  not_arrived(g, from_caf(e), streamed && step != steps);
              });
    }
  }

  /// `late`: for a step that was given up, and with it whatever was handed out for it.
  void arrived(const group_ready& m, bool late) {
    if (late)
      return;
    take(m.group, m.weights);
    asked[m.group] = false;
    answer_awaiting();
    advance();
  }

  void not_arrived(std::size_t g, const error& why, bool late) {
    if (late)
      return;
    asked[g] = false;
    if (current && !failure)
      failure = why;
    for (auto& waiting : std::exchange(awaiting, {}))
      waiting.deliver(to_caf(why));
    for (auto& waiting : std::exchange(sharing, {}))
      waiting.deliver(to_caf(why));
    advance();
  }

  void answer_awaiting() {
    for (std::size_t g = 0; g < there.size(); ++g)
      if (!there[g] && !weights->placement->streams(g))
        return;
    for (auto& waiting : std::exchange(awaiting, {}))
      waiting.deliver(weights_resident{});
    for (auto& waiting : std::exchange(sharing, {})) {
      weights_shared answer{weights->placement, weights->leases};
      for (std::size_t g = 0; g < answer.leases.size(); ++g)
        if (weights->placement->streams(g))
          answer.leases[g].reset();
      waiting.deliver(answer);
    }
  }

  /// Gives streamed groups back whose job is done.
  void release_before(std::size_t end) {
    for (std::size_t g = 0; g < end; ++g)
      if (drop(g))
        tell(self, setup.pipeline.prefetcher, release_group{g});
  }

  void drop_streamed() {
    for (std::size_t g = 0; g < there.size(); ++g)
      (void)drop(g);
  }

  /// Lets go of a streamed group, if it is there.
  bool drop(std::size_t g) {
    if (!weights->placement->streams(g) || !there[g])
      return false;
    weights->memory[g] = nullptr;
    weights->leases[g].reset();
    there[g] = false;
    return true;
  }

  // -- another prefetcher ---------------------------------------------------------------------------------------------

  /// Answers who wants compute to stand still, as soon as it may: a step keeps its placement. True when it does.
  bool suspend_if_wanted() {
    if (busy)
      return false;
    if (suspended) { // by a supervisor that ended, with the leases that it got
      for (auto& s : std::exchange(suspensions, {}))
        s.promise.deliver(weights_suspended{s.next, std::vector<lease>(s.next->layout.groups.size())});
      return true;
    }
    auto it = std::find_if(suspensions.begin(), suspensions.end(),
                           [this](const suspension& s) { return s.next == weights->placement; });
    if (it == suspensions.end() && !current)
      it = suspensions.begin();
    if (it == suspensions.end())
      return false;
    suspended = true;
    const auto wanted = it->next;
    const weights_suspended answer{wanted, leases_for(*wanted)};
    std::erase_if(suspensions, [&](suspension& s) { // also a supervisor that followed one that ended
      if (s.next == wanted)
        s.promise.deliver(answer);
      return s.next == wanted;
    });
    return true;
  }

  /// Lets go of everything but what stays in the next placement, too.
  [[nodiscard]] std::vector<lease> leases_for(const weight_placement& next_weights) {
    std::vector<lease> kept(next_weights.layout.groups.size());
    // What is mapped is watched by those alone who have the same mapping.
    const auto& mapping = weights->placement->mapping;
    const bool may_stay = !mapping || mapping == next_weights.mapping;
    for (std::size_t g = 0; may_stay && g < kept.size() && g < there.size(); ++g)
      if (there[g] && !weights->placement->streams(g) && !next_weights.streams(g) &&
          next_weights.same_group(*weights->placement, g))
        kept[g] = weights->leases[g];
    ++epoch; // answers of the old prefetcher come too late from now on
    weights = std::make_shared<loaded_weights>(weights->placement);
    there.assign(there.size(), false);
    return kept;
  }

  void resume(const resume_weights& m) {
    setup.pipeline = m.pipeline;
    follow(m.weights, m.kept);
    suspended = false;
    if (suspend_if_wanted())
      return;
    answer_awaiting();
    if (current)
      start();
    else
      need_groups();
    begin_next();
  }

  // -- steps ----

  void begin_next() {
    if (current || inherits || in_line.empty())
      return;
    const run_step m = std::move(in_line.front().asked);
    promise = std::move(in_line.front().promise);
    in_line.pop_front();
    const trace_span span(setup.trace, track, "run_step", "rows", static_cast<std::int64_t>(m.work->ids.size()));
    // Keys and values lie in pages of this device, which are numbered as the scheduler's are.
    const auto bound = blank_step(last_bound);
    *bound = *m.work;
    bind_pages(*bound, *pages);
    current = bound;
    hidden = m.hidden;
    hidden_on = m.hidden_on;
    next = weights->placement->layout.begin_group();
    handed_on = false;
    times.compute = 0;
    failure.reset();
    if (!suspended)
      start();
  }

  /// Has brought what the current step needs from where it stands.
  void start() {
    const auto& layout = weights->placement->layout;
    const bool output = !current->logit_rows.empty();
    step_end = output ? layout.end_group() : std::min(layout.end_group(), layout.norm_group());
    if (weights->placement->plan.ring_slots > 0)
      tell(self, setup.pipeline.prefetcher, begin_step{output});
    if (next == 0)
      look_up_embedding_rows();
    else
      rows_there = true;
    need_groups();
    advance();
  }

  /// Where the embedding is not in memory: has the rows of the step's tokens brought.
  void look_up_embedding_rows() {
    rows_there = !weights->placement->layout.embedding_on_disk();
    if (rows_there)
      return;
    ask(self, setup.pipeline.loader, look_up_embedding{current, setup.space->floats(buffer::hidden)})
        .then(
            [this, asked_in = epoch, step = steps](const embedding_ready&) {
              if (asked_in != epoch || step != steps)
                return;
              rows_there = true;
              advance();
            },
            [this, asked_in = epoch, step = steps](const caf::error& e) {
              if (asked_in != epoch || step != steps || is_gone(e))
                return;
              failure = from_caf(e);
              advance();
            });
  }

  /// Enqueues the groups that are there, or answers when the step is done.
  void advance() {
    if (!current || busy || suspended || handed_on)
      return;
    try {
      go_on();
    } catch (const error& e) { // of a copy, or of the memory for one
      give_up(e);
    }
  }

  void go_on() {
    if (const auto broken = setup.dev->failure())
      return give_up(*broken);
    if (next == step_end && setup.next)
      return hand_on();
    if (next == step_end) {
      const step_computed answer = computed();
      setup.log.trace("{}: a step of {} tokens in {} sequences is computed in {:.4f} s", setup.dev->name(),
                      current->ids.size(), current->sequences.size(), times.compute);
      return settle([&](auto& p) { p.deliver(answer); });
    }
    if (failure)
      return give_up(*failure);
    if (!rows_there)
      return;
    std::size_t last = next;
    while (last < step_end && there[last]) {
      ++last;
      if (weights->placement->streams(last - 1))
        break; // its slot is wanted as soon as it has been computed
    }
    if (last > next)
      enqueue(std::exchange(next, last), last);
  }

  void give_up(const error& why) {
    setup.log.log(why.code() == errc::device_failed ? log_level::error : log_level::warning,
                  "{}: a step of {} tokens is given up: {}", setup.dev->name(), current->ids.size(), why.what());
    drop_streamed();
    tell(self, setup.pipeline.prefetcher, abandon_step{});
    settle([&](auto& p) { p.deliver(to_caf(why)); });
  }

  /// A buffer's first values where the processor reads them: where they are, or copied. `copy` has room for `most`.
  template <class T = float>
  const T* on_host(buffer b, std::size_t count, std::size_t most, std::shared_ptr<std::byte>& copy) {
    if (setup.dev->host_memory())
      return reinterpret_cast<const T*>(setup.space->at(b));
    if (!copy)
      copy = setup.dev->make_host_buffer(most * sizeof(T));
    setup.dev->download(setup.space->at(b), copy.get(), count * sizeof(T));
    return reinterpret_cast<const T*>(copy.get());
  }

  step_computed computed() {
    const auto& config = weights->placement->layout.config;
    const std::size_t rows = current->logit_rows.size(), most = setup.space->shape().logit_rows;
    step_computed out;
    out.candidates_of_row = top_k();
    if (out.candidates_of_row > 0)
      out.candidates = on_host<candidate>(buffer::head_rows, rows * out.candidates_of_row, most * max_top_k,
                                          setup.copies->candidates);
    else
      out.logits = on_host(buffer::logits, rows * config.vocabulary, most * config.vocabulary, setup.copies->logits);
    out.times = {times.compute, load_since_last()};
    return out;
  }

  /// Logits of a row that travel from a device whose memory can't be read; 0: all.
  [[nodiscard]] std::size_t top_k() const {
    return setup.dev->host_memory() || current->logit_rows.empty() ? 0 : top_k_of(weights->placement->layout, *current);
  }

  /// The next device goes on, and its answer is ours.
  void hand_on() {
    const auto onward = setup.next_dev->takes_from(*setup.dev)
                            ? run_step{current, setup.space->floats(buffer::hidden), setup.dev}
                            : run_step{current, hidden_rows()};
    handed_on = true;
    ask(self, setup.next->get(), onward)
        .then(
            [this](const step_computed& m) {
              settle([&](auto& p) {
                step_computed all = m;
                all.times = {times.compute + m.times.compute, m.times.load + load_since_last()};
                p.deliver(all);
              });
            },
            [this](const caf::error& e) { settle([&](auto& p) { p.deliver(e); }); });
  }

  const float* hidden_rows() {
    const std::size_t width = weights->placement->layout.config.width;
    return on_host(buffer::hidden, current->ids.size() * width, setup.space->shape().max_batch_tokens * width,
                   setup.copies->hidden);
  }

  void enqueue(std::size_t first, std::size_t last) {
    const compute_actor me = self;
    // A GPU computes after its job has ended: until what is recorded behind it is done, what it reads and writes must
    // stay, even if this actor ends.
    const auto held = std::make_shared<job>(job{setup.space, current, weights, {}});
    const auto& layout = weights->placement->layout;
    const bool begins = first == layout.begin_group();
    const float* from = begins ? hidden : nullptr;
    if (from != nullptr && !setup.dev->host_memory()) {
      const auto* const bytes = reinterpret_cast<const std::byte*>(from);
      const std::size_t count = current->ids.size() * layout.config.width * sizeof(float);
      if (hidden_on != nullptr)
        setup.dev->copy_from(*hidden_on, bytes, setup.space->at(buffer::hidden), count);
      else
        setup.dev->upload(bytes, setup.space->at(buffer::hidden), count);
      from = nullptr;
    }
    std::vector<std::size_t> rows(from != nullptr ? current->ids.size() : 0);
    std::iota(rows.begin(), rows.end(), std::size_t{0});
    busy = true;
    setup.dev->enqueue([held, first, last, from, rows = std::move(rows),
                        chooses = last == step_end && !setup.next && top_k() > 0, copied = begins ? pages : nullptr,
                        page_bytes = to_group_alignment(kv_page_bytes(layout, setup.space->shape().kv))](ops& o) {
      const auto& [space, work, w, _] = *held;
      if (o.worker() == 0)
        held->began = clock::now();
      if (copied)
        copy_pages(o, *work, *copied, page_bytes);
      if (from)
        take_over(o, *w, *space, rows, from);
      forward_groups(o, w->placement->layout, *space, *work, w->memory, first, last);
      if (chooses)
        keep_top_k(o, w->placement->layout, *space, *work);
    });
    // The stream's thread runs what follows (this actor, the scheduler, the sampler): it has nothing to do before them.
    setup.dev->compute_stream().record().then(
        [me, held, first, last, trace = setup.trace, track = stream_track, on = here] {
          const auto end = clock::now();
          if (trace)
            trace->record(track, first + 1 == last ? "group" : "groups", held->began, end, "first",
                          static_cast<std::int64_t>(first));
          held->work.reset(); // the actor fills it again
          held->weights.reset();
          on->tell(me, job_done{std::chrono::duration<double>(end - held->began).count()});
        });
  }

  template <class F>
  void settle(F deliver) {
    auto p = *std::exchange(promise, std::nullopt);
    current.reset();
    ++steps;
    for (std::size_t g = 0; g < asked.size(); ++g)
      asked[g] = asked[g] && !weights->placement->streams(g);
    deliver(p);
    if (!suspend_if_wanted())
      begin_next();
  }

  double load_since_last() {
    const auto now = setup.meter->busy_ns.load();
    return static_cast<double>(now - std::exchange(load_seen, now)) * 1e-9;
  }

  compute_actor::pointer self;
  compute_setup setup;
  std::shared_ptr<const std::vector<std::byte*>> pages;
  std::shared_ptr<inline_executor> here; ///< of the compute stream's thread, which may outlive this
  std::shared_ptr<loaded_weights> weights;
  std::vector<bool> there;      ///< by group: in memory, or without bytes
  std::vector<bool> asked;      ///< by group: an answer is on its way
  bool watches_mapping = false; ///< some of the weights may be lost
  std::size_t epoch = 0;        ///< counts placements and prefetchers: older answers are not for us
  std::size_t steps = 0;        ///< that ended
  std::vector<pending_response<weights_resident>> awaiting;
  std::vector<pending_response<weights_shared>> sharing;

  struct suspension {
    std::shared_ptr<const weight_placement> next;
    pending_response<weights_suspended> promise;
  };
  std::vector<suspension> suspensions;
  bool suspended = false;

  struct step_in_line {
    run_step asked;
    pending_response<step_computed> promise;
  };
  std::deque<step_in_line> in_line;
  std::shared_ptr<const step> current;
  std::shared_ptr<step> last_bound; ///< current, or to be used again
  std::optional<pending_response<step_computed>> promise;
  std::optional<error> failure;  ///< of the current step
  const float* hidden = nullptr; ///< of the device before
  const device* hidden_on = nullptr;
  bool handed_on = false;   ///< the next device computes
  bool rows_there = false;  ///< of the embedding
  std::size_t step_end = 0; ///< of the groups that the current step needs
  std::size_t next = 0;     ///< first group of the step that is not enqueued
  bool busy = true;         ///< a job is out
  bool inherits = true;     ///< that job is of the compute before this one, if there was one
  step_times times;
  std::int64_t load_seen = 0;
  tracer::track track = 0, stream_track = 0;
};

compute_actor spawn_compute(caf::actor_system& system, compute_setup setup) {
  return spawn<compute_actor, compute_state>(system, std::move(setup));
}

} // namespace tropilla::cast
