// Builds a runtime and takes it down.
#include "actors/runtime_impl.hpp"

#include "actors/compute.hpp"
#include "actors/loader.hpp"
#include "actors/memory_manager.hpp"
#include "actors/prefetcher.hpp"
#include "actors/sampler.hpp"
#include "actors/scheduler.hpp"
#include "actors/supervisor.hpp"

#include <fmt/format.h>

namespace tropilla {
namespace {

constexpr std::size_t pool_alignment = 64;

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

runtime::impl::impl(runtime_config c, caf::actor_system* external) : config(std::move(c)) {
  auto prepared = prepared_model::open(config);
  require_fits(prepared.plan, prepared.report.budget_bytes);
  if (!config.trace.empty()) {
    trace = std::make_unique<tracer>();
    trace->write(config.trace); // a path that can't be written should fail now, not at the end
  }
  dev = std::move(prepared.dev);
  layout = std::move(prepared.layout);
  shape = prepared.shape;
  report = std::move(prepared.report);
  facts = facts_of(prepared.file, layout.config);

  const std::size_t reservation = reservation_for(report.budget_bytes);
  ledger = arbiter::make();
  ledger->add_device(std::string(dev->name()), dev->reserve(reservation), reservation, report.budget_bytes,
                     pool_alignment);
  take_leases(prepared.plan);
  lease staging = take(*ledger, dev->name(), prepared.loading.staging_bytes(), purpose::staging);

  if (external) {
    system = external;
  } else {
    own_system.emplace();
    system = &own_system->get();
  }
  try {
    spawn_cast(prepared, std::move(staging));
  } catch (...) {
    shut_down();
    throw;
  }
}

void runtime::impl::take_leases(const memory_plan& plan) {
  kv = take(*ledger, dev->name(), plan.by_purpose[static_cast<std::size_t>(purpose::kv)], purpose::kv);
  activations = take(*ledger, dev->name(), plan.activations.bytes, purpose::activations);
  workspace = take(*ledger, dev->name(), workspace_bytes(layout, shape, *dev), purpose::workspace);
  space = std::make_unique<llama_workspace>(layout, shape, *dev, activations.data(), plan.activations.offsets,
                                            workspace.data());
}

void runtime::impl::spawn_cast(const prepared_model& prepared, lease staging) {
  const gguf_file& file = prepared.file;
  const std::vector<bool>& streamed = prepared.plan.streamed;
  memory_manager = cast::spawn_memory_manager(*system, ledger);
  loader = cast::spawn_loader(*system, {&layout, file.files, dev.get(), prepared.loading, std::move(staging), streamed,
                                        trace.get(), config.on_progress});
  prefetcher = cast::spawn_prefetcher(*system, {std::string(dev->name()), &layout, memory_manager, loader, trace.get(),
                                                streamed, prepared.plan.ring_slots, prepared.plan.slot_bytes});
  // From here on weights are being read; the vocabulary is built meanwhile.
  tok = std::make_unique<tokenizer>(file);
  try {
    chat = chat_template::from_model(file, *tok, config.chat_template);
  } catch (const error& e) {
    if (!config.chat_template.empty())
      throw;
    chat_failure = e; // raw prompts need no template
  }

  const std::size_t page_bytes = kv_page_bytes(layout.config);
  const std::size_t stride = (page_bytes + pool_alignment - 1) / pool_alignment * pool_alignment;
  std::vector<std::byte*> pages;
  for (std::size_t i = 0; i * kv_page_tokens < shape.context; ++i)
    pages.push_back(kv.data() + i * stride);

  compute = cast::spawn_compute(*system, {&layout, space.get(), dev.get(), prefetcher, streamed, trace.get()});
  sampler = cast::spawn_sampler(*system, trace.get());
  scheduler = cast::spawn_scheduler(
      *system, {tok.get(), shape, layout.config.vocabulary, std::move(pages), kv, compute, sampler, trace.get()});
  const auto member = [](const char* name, const auto& handle) {
    return std::pair<std::string, caf::actor>(name, caf::actor_cast<caf::actor>(handle));
  };
  supervisor = cast::spawn_supervisor(
      *system, {{member("memory_manager", memory_manager), member("loader", loader), member("prefetcher", prefetcher),
                 member("compute", compute), member("sampler", sampler), member("scheduler", scheduler)},
                scheduler});
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
  end(prefetcher);
  end(loader);
  end(memory_manager);
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
  if (bytes < report.total_bytes)
    throw error(errc::over_budget, fmt::format("the budget of {} can't become {}: {} bytes are planned", dev->name(),
                                               format_bytes(bytes), report.total_bytes));
  ledger->set_budget(std::string(dev->name()), bytes);
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
