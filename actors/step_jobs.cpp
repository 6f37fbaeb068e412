// Each job holds what it works with: the actor that enqueued it may end first.
#include "actors/step_jobs.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tropilla {

/// What a job reads and writes.
struct step_jobs::job {
  const llama_workspace* space;
  std::shared_ptr<const tropilla::step> step;
  std::shared_ptr<loaded_weights> weights;
  std::shared_ptr<communicator> group;
  std::chrono::steady_clock::time_point began{}; ///< written by worker 0 at the job's start, and read after its end
};

step_jobs::step_jobs(step_jobs_setup setup) : setup_(std::move(setup)) {
  if (setup_.trace)
    track_ = setup_.trace->make_track("stream " + std::string(setup_.dev->name()) + " compute");
}

step_groups step_jobs::follow(std::shared_ptr<const weight_placement> placement, const std::vector<lease>& kept) {
  weights_ = std::make_shared<loaded_weights>(std::move(placement));
  for (std::size_t g = 0; g < std::min(kept.size(), weights_->leases.size()); ++g)
    if (kept[g])
      take(g, kept[g]);
  // A mapping that was lost before has only memory of its own for those who come now.
  const auto& mapping = weights_->placement->mapping;
  watches_mapping_ =
      mapping && (std::ranges::any_of(kept, [](const lease& l) { return static_cast<bool>(l); }) || !mapping->lost());
  const auto& layout = weights_->placement->layout;
  step_groups out{weights_->placement->plan.streamed,
                  std::vector<bool>(layout.groups.size()),
                  layout.begin_group(),
                  layout.end_group(),
                  layout.norm_group(),
                  layout.embedding_on_disk(),
                  weights_->placement};
  for (std::size_t g = 0; g < out.present.size(); ++g)
    out.present[g] = weights_->placement->is_present(g, kept);
  return out;
}

void step_jobs::take(std::size_t group, const lease& memory) {
  weights_->leases[group] = memory;
  weights_->memory[group] = memory.data();
}

void step_jobs::drop(std::size_t group) {
  weights_->memory[group] = nullptr;
  weights_->leases[group].reset();
}

std::vector<lease> step_jobs::resident() const {
  auto out = weights_->leases;
  for (std::size_t g = 0; g < out.size(); ++g)
    if (weights_->placement->streams(g))
      out[g].reset();
  return out;
}

std::vector<lease> step_jobs::leave_for(const weight_placement& next_placement) {
  std::vector<lease> kept(next_placement.layout.groups.size());
  // A mapped group may be lost, and only a placement with the same mapping watches for that.
  const auto& now = *weights_->placement;
  const bool may_stay = !now.mapping || now.mapping == next_placement.mapping;
  for (std::size_t g = 0; may_stay && g < std::min(kept.size(), weights_->leases.size()); ++g)
    if (!now.streams(g) && !next_placement.streams(g) && next_placement.same_group(now, g))
      kept[g] = weights_->leases[g];
  weights_ = std::make_shared<loaded_weights>(weights_->placement);
  return kept;
}

void step_jobs::begin(const step& next_step, const hidden_input& from, std::shared_ptr<communicator> group) {
  const auto bound = blank_step(last_bound_);
  *bound = next_step;
  current_ = bound;
  bind_pages(*bound, page_starts());
  from_ = from;
  group_ = std::move(group);
}

/// The pages of this device, which are numbered as the scheduler's are.
std::span<std::byte* const> step_jobs::page_starts() const {
  return current_->table->starts[setup_.number];
}

/// The memory of the step's pages goes back when nobody else works with them.
void step_jobs::end() noexcept {
  current_.reset();
  group_.reset();
  drop_table(last_bound_);
}

void step_jobs::enqueue(std::size_t first, std::size_t last, bool is_last, std::function<void(double)> done) {
  // A GPU computes after its job has ended: until what is recorded behind it is done, what it reads and writes must
  // stay, even if the actor ends.
  const auto held = std::make_shared<job>(job{setup_.space, current_, weights_, group_});
  const auto& layout = weights_->placement->layout;
  const bool begins = first == layout.begin_group();
  const float* const from = begins ? bring_hidden() : nullptr;
  std::vector<std::size_t> rows(from != nullptr ? current_->ids.size() : 0);
  std::iota(rows.begin(), rows.end(), std::size_t{0});
  setup_.dev->enqueue([held, first, last, from, rows = std::move(rows),
                       finds_top_k = is_last && !setup_.next_device && top_k() > 0,
                       page_starts = begins ? page_starts() : std::span<std::byte* const>(),
                       page_bytes = to_group_alignment(kv_page_bytes(layout, setup_.space->shape().kv))](ops& o) {
    const auto& [space, step, weights, group, _] = *held;
    if (o.worker() == 0)
      held->began = std::chrono::steady_clock::now();
    if (!page_starts.empty())
      copy_pages(o, *step, page_starts, page_bytes);
    if (from)
      o.gather_rows(from, weights->placement->layout.config.width, rows, space->floats(buffer::hidden));
    forward_groups(o, weights->placement->layout, *space, *step, weights->memory, first, last, group.get());
    if (finds_top_k)
      keep_top_k(o, weights->placement->layout, *space, *step);
  });
  // The stream's thread runs what follows (compute, the scheduler, the sampler) through compute's inline executor: it
  // has nothing to do before them.
  setup_.dev->compute_stream().record().then(
      [held, first, last, trace = setup_.trace, track = track_, done = std::move(done)] {
        const auto end = std::chrono::steady_clock::now();
        if (trace)
          trace->record(track, first + 1 == last ? "group" : "groups", held->began, end, "first",
                        static_cast<std::int64_t>(first));
        held->step.reset(); // the actor fills it again
        held->weights.reset();
        held->group.reset();
        done(std::chrono::duration<double>(end - held->began).count());
      });
}

/// Brings the hidden states of the device before. Devices without host-visible memory copy them at once; for others it
/// returns where the job copies them from. Null: the job has nothing to copy.
const float* step_jobs::bring_hidden() {
  if (from_.rows == nullptr || setup_.dev->host_memory())
    return from_.rows;
  const auto* const bytes = reinterpret_cast<const std::byte*>(from_.rows);
  const std::size_t count = current_->ids.size() * weights_->placement->layout.config.width * sizeof(float);
  if (from_.on != nullptr)
    setup_.dev->copy_from(*from_.on, bytes, setup_.space->at(buffer::hidden), count);
  else
    setup_.dev->upload(bytes, setup_.space->at(buffer::hidden), count);
  return nullptr;
}

/// A buffer's first values where the processor reads them: where they are, or copied. `copy` has room for `max_count`.
template <class T>
const T* step_jobs::on_host(buffer b, std::size_t count, std::size_t max_count, std::shared_ptr<std::byte>& copy) {
  if (setup_.dev->host_memory())
    return reinterpret_cast<const T*>(setup_.space->at(b));
  if (!copy)
    copy = setup_.dev->make_host_buffer(max_count * sizeof(T));
  setup_.dev->download(setup_.space->at(b), copy.get(), count * sizeof(T));
  return reinterpret_cast<const T*>(copy.get());
}

/// The number of a row's logits that a device without host-visible memory sends to the processor; 0: all.
std::size_t step_jobs::top_k() const {
  return setup_.dev->host_memory() || current_->logit_rows.empty() ? 0
                                                                   : top_k_of(weights_->placement->layout, *current_);
}

step_output step_jobs::output() {
  if (weights_->placement->layout.share.rank > 0) // the first of the group has them
    return {};
  const std::size_t vocabulary = weights_->placement->layout.config.vocabulary;
  const std::size_t rows = current_->logit_rows.size(), max_rows = setup_.space->shape().logit_rows;
  step_output out;
  out.k = top_k();
  if (out.k > 0)
    out.top_k = on_host<token_logit>(buffer::head_rows, rows * out.k, max_rows * max_top_k, setup_.copies->top_k);
  else
    out.logits = on_host(buffer::logits, rows * vocabulary, max_rows * vocabulary, setup_.copies->logits);
  return out;
}

hidden_input step_jobs::hand_on() {
  if (setup_.next_device->takes_from(*setup_.dev))
    return {hidden(), setup_.dev};
  const std::size_t width = weights_->placement->layout.config.width;
  return {on_host(buffer::hidden, current_->ids.size() * width, setup_.space->shape().max_batch_tokens * width,
                  setup_.copies->hidden),
          nullptr};
}

} // namespace tropilla
