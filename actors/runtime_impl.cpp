// Builds a runtime and takes it down.
#include "actors/runtime_impl.hpp"

#include "actors/compute.hpp"
#include "actors/loader.hpp"
#include "actors/memory_manager.hpp"
#include "actors/prefetcher.hpp"
#include "actors/sampler.hpp"
#include "actors/scheduler.hpp"
#include "actors/supervisor.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <future>

namespace tropilla {
namespace {

/// Address space is free, and a pool that is filled to its last byte can't find the last block: reserve a quarter more.
std::size_t reservation_for(std::size_t budget) {
  return budget + budget / 4 + (std::size_t{64} << 20);
}

lease take(arbiter& ledger, std::string_view device, std::size_t bytes, purpose why) {
  auto answer = ledger.try_acquire({std::string(device), bytes, why, priority::urgent});
  if (auto* refused = std::get_if<refusal>(&answer))
    throw error(errc::over_budget, refused->message);
  return std::get<lease>(std::move(answer));
}

/// As `take`, where bytes that others let go of may still be on their way back: they come within moments.
lease take_soon(arbiter& ledger, std::string_view device, std::size_t bytes, purpose why) {
  constexpr std::chrono::seconds long_enough{10};
  const auto answer = std::make_shared<std::promise<arbiter::grant>>();
  auto granted = answer->get_future();
  const auto ticket = ledger.acquire({std::string(device), bytes, why, priority::urgent},
                                     [answer](arbiter::grant g) { answer->set_value(std::move(g)); });
  if (granted.wait_for(long_enough) != std::future_status::ready)
    (void)ledger.cancel(ticket); // answers, if it is not answered at this moment
  auto g = granted.get();
  if (auto* refused = std::get_if<refusal>(&g))
    throw error(errc::over_budget, refused->message);
  return std::get<lease>(std::move(g));
}

/// Of what a replica adds: its weights are the original's, but for a ring.
memory_plan make_replica_plan(const weight_arrangement& weights, const plan_input& input) {
  auto plan = make_plan(input);
  plan.streamed = weights.plan.streamed;
  plan.ring_slots = weights.plan.ring_slots;
  plan.slot_bytes = weights.plan.slot_bytes;
  std::erase_if(plan.items, [](const plan_item& item) { return item.why == purpose::weights; });
  for (std::size_t i = 0; i < plan.ring_slots; ++i)
    plan.items.push_back({purpose::ring, fmt::format("slot {}", i), plan.slot_bytes});
  plan.total = 0;
  plan.by_purpose = {};
  for (const auto& item : plan.items) {
    plan.by_purpose[static_cast<std::size_t>(item.why)] += item.bytes;
    plan.total += item.bytes;
  }
  return plan;
}

model_facts facts_of(const gguf_file& file, const llama_config& c) {
  model_facts f;
  f.name = c.name;
  f.type = c.type_name;
  f.parameters = c.parameters;
  f.layers = c.layers;
  f.vocabulary = c.vocabulary;
  f.trained_context = c.context;
  for (const auto bytes : file.file_bytes)
    f.file_bytes += bytes;
  return f;
}

} // namespace

runtime::impl::impl(runtime_config c, caf::actor_system* external, runtime_hooks h)
    : config(std::move(c)), hooks_(std::move(h)) {
  auto prepared = prepared_model::open(config);
  require_fits(prepared.weights->plan, prepared.report.budget_bytes);
  if (!config.trace.empty()) {
    trace = std::make_unique<tracer>();
    trace->write(config.trace); // a path that can't be written should fail now, not at the end
  }
  dev = std::move(prepared.dev);
  input = std::move(prepared.input);
  report = std::move(prepared.report);
  facts = facts_of(prepared.file, input.model);
  add_device(report.budget_bytes);
  take_leases(*prepared.weights);

  if (external) {
    system = external;
  } else {
    own_system.emplace();
    system = &own_system->get();
  }
  spawn_cast(prepared.weights, {}, [&] { read_texts(prepared.file); });
}

runtime::impl::impl(std::shared_ptr<impl> from, std::size_t context)
    : config(from->config), original(std::move(from)), dev(original->dev), input(original->input),
      facts(original->facts), ledger(original->ledger), tok(original->tok), chat(original->chat),
      chat_failure(original->chat_failure), hooks_(original->hooks_), replicas_(original->replicas_) {
  const std::lock_guard lock(original->changing_); // the budget stays as it is from now on
  config.trace.clear();
  config.on_progress = nullptr;
  if (context > 0)
    input.shape.context = config.context = choose_context(context, input.model);
  input.shape.step_rows = std::min(input.shape.step_rows, input.shape.context);
  input.shape.logit_rows = std::min(input.shape.logit_rows, input.shape.step_rows);
  auto shared = cast::ask_and_wait<cast::weights_shared>(*original->system, original->compute, cast::share_weights{});
  auto weights = std::make_shared<weight_arrangement>(*shared.weights);
  weights->plan = make_replica_plan(
      *shared.weights, make_plan_input(weights->layout, input.shape, *dev, weights->loading.staging_bytes()));
  weights->spare_bytes = 0;
  report = describe(*weights, input.shape, original->ledger->usage(std::string(dev->name())).budget);
  take_leases(*weights);
  own_system.emplace();
  system = &own_system->get();
  spawn_cast(weights, shared.leases, [] {});
}

void runtime::impl::add_device(std::size_t budget) {
  // A budget that grows while it runs takes no more than everything: there is address space for that from the start.
  const std::size_t reservation = reservation_for(std::max(budget, arrange(input, 0)->plan.total));
  reserved_ = reservation;
  device_setup setup;
  setup.name = dev->name();
  setup.base = dev->reserve(reservation);
  setup.reservation_bytes = reservation;
  setup.budget = budget;
  setup.alignment = group_alignment;
  setup.host_memory = true;
  setup.trim = [d = dev.get(), base = setup.base](std::size_t offset, std::size_t bytes) {
    d->trim(base + offset, bytes);
  };
  ledger = arbiter::make();
  ledger->add_device(setup);
  ledger->refuse_acquisition(hooks_.refuse_acquisition);
}

void runtime::impl::take_leases(const weight_arrangement& weights) {
  const auto& plan = weights.plan;
  kv = take(*ledger, dev->name(), plan.by_purpose[static_cast<std::size_t>(purpose::kv)], purpose::kv);
  activations = take(*ledger, dev->name(), plan.activations.bytes, purpose::activations);
  workspace = take(*ledger, dev->name(), workspace_bytes(weights.layout, input.shape, *dev), purpose::workspace);
  // The device has one scratch, whoever computes on it: a replica's jobs take turns with the original's.
  space = std::make_unique<llama_workspace>(weights.layout, input.shape, *dev, activations.data(),
                                            plan.activations.offsets, workspace.data(), !original);
}

cast::weight_crew runtime::impl::hire(const std::shared_ptr<const weight_arrangement>& weights,
                                      const std::vector<lease>& kept) {
  cast::weight_crew out;
  // Not before the step at hand is done: what it waits for may not fit the new budget.
  if (!original && ledger->usage(std::string(dev->name())).budget != weights->budget)
    ledger->set_budget(std::string(dev->name()), weights->budget);
  lease staging = take_soon(*ledger, dev->name(), weights->loading.staging_bytes(), purpose::staging);
  out.memory_manager = cast::spawn_memory_manager(*system, ledger);
  weight_loader_setup loading;
  loading.dev = dev.get();
  loading.trace = trace.get();
  loading.files = input.files;
  loading.packed_folder = weights->mapping ? "" : input.packed_folder;
  loading.meter = meter;
  loading.make_reader = hooks_.make_reader;
  loading.notice = config.on_notice;
  out.loader = cast::spawn_loader(*system, {weights, std::move(staging), std::move(loading), config.on_progress, kept});
  const auto slots = std::make_shared<std::atomic<std::size_t>>(0);
  out.prefetcher = cast::spawn_prefetcher(
      *system, {std::string(dev->name()), weights, out.memory_manager, out.loader, trace.get(), slots, kept});
  // Two slots are what streaming needs; what the ring has beyond them goes first when bytes are short.
  ring_reclaimer = ledger->add_reclaimer(
      std::string(dev->name()), reclaimable::prefetch_window,
      [slots, slot_bytes = weights->plan.slot_bytes, to = out.prefetcher](std::size_t bytes) -> std::size_t {
        const std::size_t spare = *slots > 2 ? *slots - 2 : 0;
        const std::size_t wanted = slot_bytes > 0 ? std::min(spare, (bytes + slot_bytes - 1) / slot_bytes) : 0;
        for (std::size_t i = 0; i < wanted; ++i)
          cast::tell_from_outside(to, cast::shrink_ring{});
        return wanted * slot_bytes;
      });
  return out;
}

void runtime::impl::read_texts(const gguf_file& file) {
  tok = std::make_shared<const tokenizer>(file);
  try {
    chat = chat_template::from_model(file, *tok, config.chat_template);
  } catch (const error& e) {
    if (!config.chat_template.empty())
      throw;
    chat_failure = e; // raw prompts need no template
  }
}

void runtime::impl::spawn_cast(const std::shared_ptr<const weight_arrangement>& weights, const std::vector<lease>& kept,
                               const std::function<void()>& meanwhile) try {
  crew->set(hire(weights, kept));
  compute =
      cast::spawn_compute(*system, {weights, space.get(), dev.get(), crew->get().prefetcher, meter, trace.get(), kept});
  meanwhile(); // weights are being read

  const std::size_t page_bytes = kv_page_bytes(input.model);
  const std::size_t stride = (page_bytes + group_alignment - 1) / group_alignment * group_alignment;
  std::vector<std::byte*> pages;
  for (std::size_t i = 0; i * kv_page_tokens < input.shape.context; ++i)
    pages.push_back(kv.data() + i * stride);

  sampler = cast::spawn_sampler(*system, trace.get());
  scheduler = cast::spawn_scheduler(
      *system, {tok.get(), input.shape, input.model.vocabulary, std::move(pages), kv, compute, sampler, trace.get()});
  const auto member = [](const char* name, const auto& handle) {
    return std::pair<std::string, caf::actor>(name, caf::actor_cast<caf::actor>(handle));
  };
  supervisor = cast::spawn_supervisor(
      *system, {{member("compute", compute), member("sampler", sampler), member("scheduler", scheduler)},
                scheduler,
                compute,
                weights,
                crew,
                [this](const std::shared_ptr<const weight_arrangement>& next, const std::vector<lease>& leases) {
                  return hire(next, leases);
                }});
} catch (...) {
  shut_down();
  throw;
}

void runtime::impl::shut_down() noexcept {
  if (closed.exchange(true))
    return;
  caf::scoped_actor self{*system};
  // Who asks goes before who answers, and the supervisor first: this is no fault. The handles stay, for late callers.
  const auto end = [&](const auto& member) {
    if (!member)
      return;
    cast::send_exit(member);
    self->wait_for(member);
  };
  end(supervisor);
  end(scheduler);
  end(sampler);
  end(compute);
  // A last job may still be out, with leases, or the stream's thread in the code of an actor that ended.
  dev->compute_stream().synchronize();
  const auto last = crew->get();
  end(last.prefetcher);
  end(last.loader);
  end(last.memory_manager);
  ring_reclaimer.reset();
  if (trace) {
    try {
      trace->write(config.trace);
    } catch (const error&) {
      // It could be written when the runtime was opened; a disk that filled since costs the trace, not the program.
    }
  }
}

runtime::impl::~impl() {
  shut_down();
}

std::vector<token_id> runtime::impl::encode(std::span<const chat_message> messages) const {
  if (!chat)
    throw error(*chat_failure);
  return chat->encode(*tok, messages);
}

std::vector<token_id> runtime::impl::encode(std::string_view text, bool special) const {
  return tok->encode(text, {tok->add_bos(), special});
}

std::vector<memory_report> runtime::impl::memory() const {
  std::vector<memory_report> out;
  for (const auto& u : ledger->usage()) {
    memory_report r{u.device, u.budget, u.in_use, u.high_water, {}, u.waiters, u.waiting_bytes, u.pool.fragmentation()};
    for (std::size_t p = 0; p < purpose_count; ++p)
      r.purposes.push_back(
          {std::string(to_string(static_cast<purpose>(p))), u.by_purpose[p], u.high_water_by_purpose[p]});
    out.push_back(std::move(r));
  }
  return out;
}

void runtime::impl::set_budget(std::size_t bytes, std::string_view name) {
  if (!name.empty() && name != dev->name())
    throw error(errc::invalid_argument, fmt::format("there is no device {}, only {}", name, dev->name()));
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  if (original)
    throw error(errc::invalid_argument, "a replica has the budget of the runtime that it was made from: change that");
  const std::lock_guard lock(changing_);
  if (const auto others = replicas_.use_count() - 1; others > 0)
    throw error(errc::invalid_argument, fmt::format("{} replicas use the weights that are in memory: the budget can "
                                                    "change when they are closed",
                                                    others));
  const auto next = arrange(input, bytes);
  require_fits(next->plan, bytes);
  if (bytes > reserved_)
    throw error(errc::invalid_argument,
                fmt::format("the budget of {} can grow to {}, what it has addresses for, not {}", dev->name(),
                            format_bytes(reserved_), format_bytes(bytes)));
  (void)cast::ask_and_wait<cast::weights_changed>(*system, supervisor, cast::change_weights{next});
}

sequence_request runtime::impl::make_request(std::vector<token_id> prompt, const generation_options& options,
                                             bool score, std::shared_ptr<reply_sink> sink) {
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  sequence_request request;
  request.id = next_request.fetch_add(1);
  request.prompt = std::move(prompt);
  request.options = options;
  request.score = score;
  request.sink = std::move(sink);
  request.submitted = std::chrono::steady_clock::now();
  return request;
}

request_id runtime::impl::submit(std::vector<token_id> prompt, const generation_options& options, bool score,
                                 std::shared_ptr<reply_sink> sink) {
  auto request = make_request(std::move(prompt), options, score, std::move(sink));
  return cast::ask_and_wait<cast::request_accepted>(*system, scheduler, cast::submit_request{std::move(request)}).id;
}

} // namespace tropilla
