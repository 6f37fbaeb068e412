// Leases, actors and the budget of one device.
#include "runtime/device_shard.hpp"

#include "actors/compute.hpp"
#include "actors/loader.hpp"
#include "actors/memory_manager.hpp"
#include "actors/prefetcher.hpp"
#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "runtime/plan_reports.hpp"
#include "runtime/prepared_model.hpp"
#include "src/schedule/request_room.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <new>
#include <optional>

namespace tropilla {
namespace {

/// Address space is free, and a pool that is filled to its last byte can't find the last block: reserve a quarter more.
std::size_t reservation_for(std::size_t budget) {
  return budget + budget / 4 + (std::size_t{64} << 20);
}

/// The memory manager while a runtime opens. The weight pipeline brings another, which its supervisor watches.
class opening_memory {
public:
  opening_memory(caf::actor_system& system, cast::memory_manager_actor manager)
      : system_(system), manager_(std::move(manager)) {}
  ~opening_memory() {
    cast::end_and_wait(system_, manager_); // no copy of a lease is on its way any more
  }
  opening_memory(const opening_memory&) = delete;
  opening_memory& operator=(const opening_memory&) = delete;

  /// Throws `error` (over_budget) where it would have to wait, or as `ask_and_wait` when the memory manager has ended.
  [[nodiscard]] lease take(std::string_view device, std::size_t bytes, purpose used_for,
                           std::optional<outside_memory> outside = {}) const {
    return cast::ask_and_wait<cast::memory_granted>(
               system_, manager_,
               cast::acquire_memory{{std::string(device), bytes, used_for, priority::urgent, std::move(outside)},
                                    false})
        .bytes;
  }

private:
  caf::actor_system& system_;
  cast::memory_manager_actor manager_;
};

/// As `committed_bytes::commit`; what it allocates for its question may be refused, too.
std::optional<std::string> try_commit(committed_bytes& of, std::size_t offset, std::size_t bytes, bool planned) {
  try {
    return of.commit(offset, bytes, planned);
  } catch (const std::bad_alloc&) {
    return "memory is short"; // short enough to need none itself
  }
}

} // namespace

device_shard::device_shard(placement_input in, std::shared_ptr<device> d, std::shared_ptr<const weight_placement> w,
                           shard_context shared)
    : dev(std::move(d)), input(std::move(in)), placement(std::move(w)), arbiter(shared.arbiter),
      shared_(std::move(shared)) {
  input.dev = dev.get();
  add_device();
  promise_plan();
  take_leases();
  log_plan();
}

device_shard::device_shard(std::shared_ptr<device_shard> from, std::size_t context, shard_context shared)
    : dev(from->dev), input(from->input), arbiter(from->arbiter), original_(std::move(from)),
      committed_(original_->committed_), base_(original_->base_), shared_(std::move(shared)),
      replicas_(original_->replicas_), pledges_(original_->pledges_) {
  if (context > 0)
    input.shape.kv_tokens = input.shape.context = choose_context(context, input.model);
  input.shape.max_batch_tokens = std::min(input.shape.max_batch_tokens, input.shape.context);
  input.shape.logit_rows = std::min(input.shape.logit_rows, input.shape.max_batch_tokens);
  auto theirs =
      cast::ask_role<cast::weights_shared>(*original_->shared_.system, *original_->compute, cast::share_weights{});
  auto mine = std::make_shared<weight_placement>(*theirs.placement);
  input.shape.request_bytes = default_request_bytes(input.shape.sequences, input.shape.context);
  auto adds = make_plan_input(mine->layout, input.shape, *dev, mine->loading.staging_bytes_on(*dev));
  adds.request_bytes = input.request_bytes(adds.kv_tokens);
  mine->plan = make_replica_plan(adds, theirs.placement->plan);
  mine->spare_bytes = 0;
  placement = std::move(mine);
  kept_ = std::move(theirs.leases);
  require_room();
  pledge_pages(placement->plan.kv_pages);
  take_leases();
  log_plan();
}

device_shard::~device_shard() {
  pledges_->end(this);
}

std::size_t device_shard::unpledged_bytes() const {
  const auto usage = arbiter->usage(name());
  std::size_t taken = pledges_->total();
  const auto planned = pipeline->placement();
  for (std::size_t p = 0; p < purpose_count; ++p) // what is planned and not leased yet is nobody else's
    if (p != static_cast<std::size_t>(purpose::kv))
      taken += std::max(usage.by_purpose[p], planned ? planned->plan.by_purpose[p] : 0);
  return usage.budget - std::min(usage.budget, taken);
}

void device_shard::require_room() const {
  if (const auto left = unpledged_bytes(); placement->plan.total > left)
    throw error(
        errc::over_budget,
        fmt::format("a replica needs {} on {}, and {} of the budget of {} are left beside the weights and the KV "
                    "pages of others; give it a smaller context, or a larger budget",
                    format_bytes(placement->plan.total), name(), format_bytes(left),
                    format_bytes(arbiter->usage(name()).budget)));
}

std::size_t device_shard::reservation(const placement_input& input, const weight_placement& placement) {
  // A budget that grows while it runs takes no more than everything: there is address space for that from the start.
  const bool has_all = placement.is_whole() && placement.plan.kv_pages == input.max_kv_pages();
  const std::size_t everything = has_all ? placement.plan.total : place(input, 0)->plan.total;
  const std::size_t wanted = reservation_for(std::max(placement.budget, everything));
  return std::min(wanted, std::max(min_reservation(placement.budget), input.limit.addresses));
}

void device_shard::add_device() {
  reserved_ = reservation(input, *placement);
  device_setup setup;
  setup.name = dev->name();
  setup.base = base_ = dev->reserve(reserved_);
  setup.reservation_bytes = reserved_;
  setup.budget = placement->budget;
  setup.alignment = group_alignment;
  setup.host_memory = dev->host_memory();
  if (dev->host_memory())
    committed_ = std::make_shared<committed_bytes>(shared_.promises, reserved_);
  setup.commit = [d = dev.get(), base = base_, on_host = committed_](std::size_t offset,
                                                                     std::size_t bytes) -> std::optional<std::string> {
    if (on_host)
      return try_commit(*on_host, offset, bytes, true);
    if (d->commit(base + offset, bytes))
      return std::nullopt;
    return "the device has no memory left";
  };
  setup.trim = [d = dev.get(), base = base_, on_host = committed_](std::size_t offset, std::size_t bytes) {
    d->trim(base + offset, bytes);
    if (on_host)
      on_host->trim(offset, bytes);
  };
  arbiter->add_device(setup);
  arbiter->refuse_acquisition(shared_.hooks.refuse_acquisition);
}

void device_shard::take_leases() {
  const auto& plan = placement->plan;
  if (shared_.trace)
    memory_record_ = cast::record_memory(*arbiter, name(), *shared_.trace);
  const opening_memory memory(
      *shared_.system, cast::spawn_memory_manager(*shared_.system, arbiter, shared_.log_of(log_component::memory)));
  if (const auto bytes = plan.by_purpose[static_cast<std::size_t>(purpose::requests)]; bytes > 0) // the allocator's
    requests_ = memory.take(dev->name(), bytes, purpose::requests, outside_memory{});
  activations_ = memory.take(dev->name(), plan.activations.bytes, purpose::activations);
  workspace_ = memory.take(dev->name(), workspace_bytes(placement->layout, input.shape, *dev), purpose::workspace);
  // The device has one scratch for all runtimes that compute on it: a replica's jobs take turns with the original's.
  space_ = std::make_unique<llama_workspace>(placement->layout, input.shape, *dev, activations_.data(),
                                             plan.activations.offsets, workspace_.data(), !original_);
}

/// All that is written whatever is asked: a run that lacks it fails before it reads weights, and the system is asked
/// once.
void device_shard::promise_plan() {
  if (!committed_)
    return;
  const auto& of = placement->plan.by_purpose;
  std::size_t elsewhere = of[static_cast<std::size_t>(purpose::kv)]; // page by page
  if (placement->mapping)
    elsewhere += of[static_cast<std::size_t>(purpose::weights)];
  if (const auto refused = shared_.promises->promise_ahead(placement->plan.total - elsewhere))
    throw error(errc::over_budget,
                fmt::format("the plan of {}: {}; end what holds the rest, or give a budget of less", name(), *refused));
}

std::optional<std::string> device_shard::commit_pages(const lease& extent) {
  if (!committed_)
    return std::nullopt;
  return try_commit(*committed_, static_cast<std::size_t>(extent.data() - base_), extent.bytes(), false);
}

std::size_t device_shard::page_bytes() const {
  return kv_page_stride(placement->layout, input.shape.kv);
}

void device_shard::log_plan() const {
  const auto& range = placement->layout.range;
  shared_.log_of(log_component::compute)
      .info("{}: computes layers {} to {} of {} with {} threads, {}", name(), range.first, range.last - 1,
            input.model.layers, dev->workers(), dev->isa());
  const auto log = shared_.log_of(log_component::memory);
  if (!log.wants(log_level::info))
    return;
  const auto& plan = placement->plan;
  std::string purposes;
  for (std::size_t p = 0; p < purpose_count; ++p)
    if (plan.by_purpose[p] > 0)
      purposes += fmt::format("{}{} {}", purposes.empty() ? "" : ", ", to_string(static_cast<purpose>(p)),
                              format_bytes(plan.by_purpose[p]));
  log.info("{}: {} of a budget of {} are planned: {}", name(), human_bytes{plan.total},
           human_bytes{original_ ? arbiter->usage(name()).budget : placement->budget}, purposes);
  if (plan.ring_slots > 0)
    log.info("{}: {} of {} weight groups are streamed for every step, through {} slots of {}", name(),
             std::ranges::count(plan.streamed, true), plan.streamed.size(), plan.ring_slots,
             human_bytes{plan.slot_bytes});
  if (placement->mapping)
    shared_.log_of(log_component::cache)
        .info("{}: packed weights are mapped, {}", name(), human_bytes{placement->mapping->bytes().size()});
}

void device_shard::start(neighbours with) {
  with_ = std::move(with);
  auto kept = std::exchange(kept_, {});
  pipeline->set(spawn_pipeline(placement, kept), placement);
  spawn_compute(std::move(kept));
}

void device_shard::spawn_compute(std::vector<lease> kept) {
  cast::compute_setup setup{
      .placement = pipeline->placement(),
      .space = space_.get(),
      .dev = dev.get(),
      .pipeline = pipeline->get(),
      .meter = meter_,
      .trace = shared_.trace,
      .progress = progress_,
      .kept = std::move(kept),
      .number = with_.number,
      .copies = copies_,
      .next_compute = with_.next ? with_.next->compute : nullptr,
      .next_device = with_.next ? with_.next->dev.get() : nullptr,
      .group = with_.group,
      .others = with_.others,
      .log = shared_.log_of(log_component::compute),
  };
  compute->set(cast::spawn_compute(*shared_.system, std::move(setup)));
  shared_.log_of(log_component::supervisor).debug("compute of {} begins", name());
}

void device_shard::supervise(std::vector<cast::supervised_member> others,
                             std::shared_ptr<const cast::role<cast::scheduler_actor>> scheduler) {
  cast::supervisor_setup setup{
      .members = std::move(others),
      .scheduler = std::move(scheduler),
      .compute = compute,
      .pipeline = pipeline,
      .progress = progress_,
      .spawn_pipeline = [this](const std::shared_ptr<const weight_placement>& next_placement,
                               const std::vector<lease>& leases) { return spawn_pipeline(next_placement, leases); },
      .spawn_compute = [this] { spawn_compute({}); },
      .device = name(),
      .log = shared_.log_of(log_component::supervisor),
  };
  supervisor->set(cast::spawn_supervisor(*shared_.system, std::move(setup)));
  shared_.log_of(log_component::supervisor).debug("the supervisor of {} begins", name());
}

cast::weight_pipeline device_shard::spawn_pipeline(const std::shared_ptr<const weight_placement>& next_placement,
                                                   const std::vector<lease>& kept) {
  cast::weight_pipeline out;
  try {
    spawn_pipeline(out, next_placement, kept);
  } catch (...) { // an actor that nobody ends is waited for when the system closes
    end(out);
    throw;
  }
  shared_.log_of(log_component::supervisor).debug("memory manager, loader and prefetcher of {} begin", name());
  return out;
}

void device_shard::spawn_pipeline(cast::weight_pipeline& out,
                                  const std::shared_ptr<const weight_placement>& next_placement,
                                  const std::vector<lease>& kept) {
  // Not before the step in flight is done: what it waits for may not fit the new budget.
  if (!original_ && arbiter->usage(std::string(dev->name())).budget != next_placement->budget)
    arbiter->set_budget(std::string(dev->name()), next_placement->budget);
  out.memory_manager = cast::spawn_memory_manager(*shared_.system, arbiter, shared_.log_of(log_component::memory));
  weight_loader_setup loading;
  loading.dev = dev.get();
  loading.trace = shared_.trace;
  loading.files = input.files;
  loading.pinned_buffer = make_pinned_buffer(*dev, next_placement->layout, next_placement->loading);
  loading.pinned_bytes = input.pinned_bytes;
  loading.packed_folder = input.packed_folder;
  loading.meter = meter_;
  loading.make_reader = shared_.hooks.make_reader;
  loading.damage_told = damage_told_;
  loading.notice = shared_.on_notice;
  loading.log = shared_.log_of(log_component::loader);
  loading.cache_log = shared_.log_of(log_component::cache);
  out.loader = cast::spawn_loader(*shared_.system, {.placement = next_placement,
                                                    .memory = out.memory_manager,
                                                    .staging_bytes = next_placement->loading.staging_bytes_on(*dev),
                                                    .loader = std::move(loading),
                                                    .on_progress = shared_.on_progress,
                                                    .kept = kept});
  const auto slots = std::make_shared<std::atomic<std::size_t>>(0);
  out.prefetcher = cast::spawn_prefetcher(*shared_.system, {.device = std::string(dev->name()),
                                                            .placement = next_placement,
                                                            .memory = out.memory_manager,
                                                            .loader = out.loader,
                                                            .trace = shared_.trace,
                                                            .slots = slots,
                                                            .kept = kept,
                                                            .log = shared_.log_of(log_component::prefetcher)});
  // Two slots are what streaming needs; what the ring has beyond them goes when bytes are short.
  ring_reclaimer_ = arbiter->add_reclaimer(
      std::string(dev->name()),
      [slots, slot_bytes = next_placement->plan.slot_bytes, to = out.prefetcher](std::size_t bytes) -> std::size_t {
        const std::size_t spare = *slots > 2 ? *slots - 2 : 0;
        const std::size_t wanted = slot_bytes > 0 ? std::min(spare, divide_up(bytes, slot_bytes)) : 0;
        for (std::size_t i = 0; i < wanted; ++i)
          cast::tell_from_outside(to, cast::shrink_ring{});
        return wanted * slot_bytes;
      });
}

void device_shard::check_budget(std::size_t bytes) const {
  if (original_)
    throw error(errc::invalid_argument, "a replica has the budget of the runtime that it was made from: change that");
  if (const auto others = replicas(); others > 0)
    throw error(errc::invalid_argument, fmt::format("{} replicas use the weights that are in memory: the budget can "
                                                    "change when they are closed",
                                                    others));
  if (bytes > reserved_)
    throw error(errc::invalid_argument,
                fmt::format("the budget of {} can grow to {}, what it has addresses for, not {}", dev->name(),
                            format_bytes(reserved_), format_bytes(bytes)));
  if (bytes > input.limit.bytes)
    shared_.on_notice(above_limit(bytes, input.limit));
}

plan_report device_shard::report() const {
  return describe(*placement, input.shape, original_ ? arbiter->usage(name()).budget : placement->budget);
}

void device_shard::end_supervisor() {
  cast::end_role(*shared_.system, *supervisor);
  shared_.log_of(log_component::supervisor).debug("the supervisor of {} is ended", name());
}

void device_shard::end_compute() {
  cast::end_role(*shared_.system, *compute);
  shared_.log_of(log_component::supervisor).debug("compute of {} is ended", name());
  if (with_.group) // jobs in flight may wait for a step that others will not go on with
    with_.group->abort(error(errc::cancelled, "the runtime was closed"));
  // A last job may still be in flight, with leases, or the stream's thread in the code of an actor that ended.
  dev->compute_stream().synchronize();
}

void device_shard::end(const cast::weight_pipeline& all) const {
  cast::end_and_wait(*shared_.system, all.prefetcher);
  cast::end_and_wait(*shared_.system, all.loader);
  cast::end_and_wait(*shared_.system, all.memory_manager);
}

void device_shard::stop_pipeline() {
  end(pipeline->get());
  ring_reclaimer_.reset();
  memory_record_.reset(); // a replica may keep this, and not the trace
  shared_.log_of(log_component::supervisor).debug("memory manager, loader and prefetcher of {} are ended", name());
}

} // namespace tropilla
