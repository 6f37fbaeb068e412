// Builds a runtime and takes it down.
#include "actors/runtime_impl.hpp"

#include "actors/sampler.hpp"
#include "actors/scheduler.hpp"

#include <fmt/format.h>

namespace tropilla {
namespace {

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
    : config(std::move(c)), ledger(arbiter::make()), hooks_(std::move(h)) {
  auto prepared = prepared_model::open(config);
  for (const auto& part : prepared.parts)
    require_fits(part.weights->plan, part.weights->budget);
  if (!config.trace.empty()) {
    trace = std::make_unique<tracer>();
    trace->write(config.trace); // a path that can't be written should fail now, not at the end
  }
  report = std::move(prepared.report);
  facts = facts_of(prepared.file, prepared.model);
  vocabulary = prepared.model.vocabulary;
  if (external) {
    system = external;
  } else {
    own_system.emplace();
    system = &own_system->get();
  }
  progress_.resize(prepared.parts.size());
  for (auto& part : prepared.parts)
    parts.push_back(std::make_shared<device_part>(std::move(part.input), std::move(part.dev), std::move(part.weights),
                                                  surroundings(parts.size())));
  spawn_cast([&] { read_texts(prepared.file); });
}

runtime::impl::impl(std::shared_ptr<impl> from, std::size_t context)
    : config(from->config), original(std::move(from)), facts(original->facts), vocabulary(original->vocabulary),
      ledger(original->ledger), tok(original->tok), chat(original->chat), chat_failure(original->chat_failure),
      hooks_(original->hooks_) {
  config.trace.clear();
  config.on_progress = nullptr;
  own_system.emplace();
  system = &own_system->get();
  std::vector<plan_report> reports;
  for (const auto& part : original->parts) {
    parts.push_back(std::make_shared<device_part>(part, context, surroundings(parts.size())));
    reports.push_back(parts.back()->report());
  }
  report = add_up(reports);
  spawn_cast([] {});
}

part_surroundings runtime::impl::surroundings(std::size_t part) {
  part_surroundings around{ledger, system, trace.get(), hooks_, {}, config.on_notice};
  if (config.on_progress)
    around.on_progress = [this, part](const load_progress& now) {
      const std::lock_guard lock(progress_mutex_);
      progress_[part] = now;
      load_progress all;
      for (const auto& p : progress_) {
        all.bytes_done += p.bytes_done;
        all.bytes_total += p.bytes_total;
      }
      config.on_progress(all);
    };
  return around;
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

void runtime::impl::spawn_cast(const std::function<void()>& meanwhile) try {
  for (std::size_t i = parts.size(); i-- > 0;)
    parts[i]->start(i + 1 < parts.size() ? parts[i + 1]->compute : cast::compute_actor{});
  meanwhile();

  auto& first = *parts.front();
  sampler = cast::spawn_sampler(*system, trace.get());
  scheduler = cast::spawn_scheduler(
      *system, {tok.get(), first.input.shape, vocabulary, first.pages, first.kv, first.compute, sampler, trace.get()});
  std::vector<std::pair<std::string, caf::actor>> others{{"sampler", caf::actor_cast<caf::actor>(sampler)},
                                                         {"scheduler", caf::actor_cast<caf::actor>(scheduler)}};
  for (const auto& part : parts)
    part->watch(std::exchange(others, {}), scheduler);
} catch (...) {
  shut_down();
  throw;
}

void runtime::impl::shut_down() noexcept {
  if (closed.exchange(true))
    return;
  // Who asks goes before who answers, and the supervisors first: this is no fault. The handles stay, for late callers.
  for (const auto& part : parts)
    part->end_supervisor();
  cast::end_and_wait(*system, scheduler);
  cast::end_and_wait(*system, sampler);
  for (const auto& part : parts)
    part->end_compute();
  for (const auto& part : parts)
    part->end_crew();
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
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  std::string names;
  for (const auto& part : parts) {
    if (name == part->name() || (name.empty() && parts.size() == 1))
      return part->set_budget(bytes);
    names += (names.empty() ? "" : ", ") + part->name();
  }
  throw error(errc::invalid_argument, name.empty() ? fmt::format("say whose budget changes; the devices are {}", names)
                                                   : fmt::format("there is no device {}, only {}", name, names));
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
