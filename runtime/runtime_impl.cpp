// Builds a runtime and takes it down.
#include "runtime/runtime_impl.hpp"

#include "actors/sampler.hpp"
#include "actors/scheduler.hpp"
#include "memory/bytes.hpp"
#include "runtime/plan_reports.hpp"
#include "src/schedule/restart_limit.hpp"

#include <fmt/format.h>
#include <map>

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

/// A callback of the client, whose exceptions end nothing of the runtime's.
template <class Argument>
std::function<void(Argument)> guarded(std::function<void(Argument)> callback) {
  if (!callback)
    return callback;
  return [callback = std::move(callback)](Argument argument) {
    try {
      callback(argument);
    } catch (...) { // documented at `runtime_config`
    }
  };
}

/// Notices are warnings in the log, too.
std::function<void(std::string_view)> logged(std::function<void(std::string_view)> notice, const logger& log) {
  return [notice = std::move(notice), log](std::string_view sentence) {
    log.warning("{}", sentence);
    if (notice)
      notice(sentence);
  };
}

} // namespace

runtime_impl::runtime_impl(runtime_config c, caf::actor_system* external, runtime_hooks h)
    : config(std::move(c)), log(std::make_shared<logs>(config.log)), arbiter(memory_arbiter::make()),
      hooks_(std::move(h)) {
  config.on_progress = guarded(std::move(config.on_progress));
  config.on_notice = logged(guarded(std::move(config.on_notice)), log->of(log_component::runtime));
  auto prepared = prepared_model::open(config, hooks_);
  prepared.require_fits();
  if (!config.trace.empty()) {
    trace = std::make_unique<tracer>();
    trace->write(config.trace); // a path that can't be written should fail now, not at the end
  }
  report = std::move(prepared.report);
  notify(prepared.model.notices);
  notify(prepared.notices);
  promises = std::make_shared<memory_promises>(hooks_.read_memory, prepared.needs);
  facts = facts_of(prepared.file, prepared.model);
  vocabulary = prepared.model.vocabulary;
  split = prepared.split;
  balance_ = std::move(prepared.balance);
  log_opening();
  if (external) {
    system = external;
  } else {
    own_system.emplace();
    system = &own_system->get();
  }
  progress_.resize(prepared.shards.size());
  for (auto& shard : prepared.shards)
    shards.push_back(std::make_shared<device_shard>(std::move(shard.input), std::move(shard.dev),
                                                    std::move(shard.placement), shard_context_of(shards.size())));
  spawn_cast([&] { read_texts(prepared.file); });
  begin_to_yield();
}

runtime_impl::runtime_impl(std::shared_ptr<runtime_impl> from, std::size_t context)
    : config(from->config), log(from->log), original(std::move(from)), facts(original->facts),
      vocabulary(original->vocabulary), split(original->split), arbiter(original->arbiter),
      promises(original->promises), tok(original->tok), chat(original->chat), chat_failure(original->chat_failure),
      hooks_(original->hooks_) {
  if (split.tensor > 1)
    throw error(errc::unsupported, "a runtime whose devices share layers can't have replicas: the devices would wait "
                                   "for each other in different steps");
  config.trace.clear();
  config.on_progress = nullptr;
  own_system.emplace();
  system = &own_system->get(); // NOLINT(cppcoreguidelines-prefer-member-initializer): own_system is made first
  std::vector<plan_report> reports;
  std::vector<std::shared_ptr<const void>> kept; // until the shards keep it
  for (const auto& shard : original->shards)
    kept.push_back(shard->keep_placement());
  (void)cast::ask_role<cast::placement_kept>(*original->system, *original->scheduler, cast::keep_placement{});
  for (const auto& shard : original->shards) {
    shards.push_back(std::make_shared<device_shard>(shard, context, shard_context_of(shards.size())));
    reports.push_back(shards.back()->report());
  }
  report = add_up(reports);
  log_opening();
  spawn_cast([] {});
}

void runtime_impl::begin_to_yield() try {
  if (!config.yield_memory)
    return;
  memory_yielder_setup setup{.devices = {},
                             .files = hooks_.pressure,
                             .pace = hooks_.pace,
                             .set_budget = {},
                             .notice = config.on_notice,
                             .log = log->of(log_component::memory)};
  std::map<std::string, std::size_t> numbers;
  for (std::size_t i = 0; i < shards.size(); ++i)
    if (shards[i]->dev->host_memory()) {
      setup.devices.push_back({shards[i]->name(), shards[i]->placement->budget});
      numbers.emplace(shards[i]->name(), i);
    }
  setup.set_budget = [this, numbers](std::size_t bytes, const std::string& name) {
    change_budget(numbers.at(name), bytes);
  };
  yielder_ = std::make_unique<memory_yielder>(std::move(setup));
} catch (...) {
  shut_down();
  throw;
}

void runtime_impl::log_opening() const {
  const auto to = log->of(log_component::runtime);
  if (original)
    to.info("a replica of {} opens", config.model.string());
  else
    to.info("{} opens: {}, {}, {:.1f} M parameters, {} layers, {}", config.model.string(), facts.name, facts.type,
            static_cast<double>(facts.parameters) * 1e-6, facts.layers, human_bytes{facts.file_bytes});
  to.info("a context has {} tokens, a step up to {} of a prompt; sequences at once: {}; KV pages: {} at first, up to "
          "{} of {} "
          "tokens in {}",
          report.context, report.max_batch_tokens, report.sequences, report.kv_pages, report.max_kv_pages,
          report.kv_page_tokens, report.kv_type);
}

void runtime_impl::log_closing() const {
  const auto to = log->of(log_component::runtime);
  if (!to.wants(log_level::info))
    return;
  std::string peaks;
  for (const auto& u : arbiter->usage())
    peaks +=
        fmt::format("; {} had {} of {} in use at most", u.device, format_bytes(u.high_water), format_bytes(u.budget));
  const std::chrono::duration<double> open = std::chrono::steady_clock::now() - opened_;
  to.info("closed after {:.1f} s; requests: {}{}", open.count(), batching ? batching->usage().requests : 0, peaks);
}

shard_context runtime_impl::shard_context_of(std::size_t shard) {
  shard_context context{arbiter, system, trace.get(), hooks_, {}, config.on_notice, log, promises};
  if (config.on_progress)
    context.on_progress = [this, shard](const load_progress& now) {
      const std::lock_guard lock(progress_mutex_);
      progress_[shard] = now;
      load_progress all;
      for (const auto& p : progress_) {
        all.bytes_done += p.bytes_done;
        all.bytes_total += p.bytes_total;
      }
      config.on_progress(all);
    };
  return context;
}

model_texts model_texts::read(const gguf_file& file, const std::string& template_name) {
  model_texts texts;
  texts.tok = std::make_shared<const tokenizer>(file);
  try {
    texts.chat = chat_template::from_model(file, *texts.tok, template_name);
  } catch (const error& e) {
    if (!template_name.empty())
      throw;
    texts.chat_failure = e; // raw prompts need no template
  }
  return texts;
}

void runtime_impl::read_texts(const gguf_file& file) {
  model_texts texts = model_texts::read(file, config.chat_template);
  tok = std::move(texts.tok);
  notify(tok->notices());
  chat = std::move(texts.chat);
  chat_failure = std::move(texts.chat_failure);
}

void runtime_impl::notify(std::span<const std::string> sentences) const {
  if (config.on_notice)
    for (const std::string& sentence : sentences)
      config.on_notice(sentence);
}

void runtime_impl::spawn_cast(const std::function<void()>& meanwhile) try {
  start_shards();
  meanwhile();

  make_store();
  make_batcher();
  make_request_room();
  last_resort_ = std::make_shared<last_resort>(this);
  spawn_sampler();
  spawn_scheduler();
  for (std::size_t i = 0; i < shards.size(); ++i)
    (void)supervise(i, {});
  cast::tell_from_outside(scheduler->get(), cast::supervisors_spawned{});
} catch (...) {
  shut_down();
  throw;
}

void runtime_impl::start_shards() {
  // A device waits for others as long as they read: one that hangs is replaced, which ends the wait.
  constexpr std::chrono::milliseconds limit{0};
  for (std::size_t i = shards.size(); i-- > 0;) {
    const std::size_t rank = i % split.tensor, next_stage = i - rank + split.tensor;
    device_shard::neighbours with{.number = i};
    if (rank == 0 && next_stage < shards.size()) // the others have the same rows: one hands the step on
      with.next = shards[next_stage].get();
    if (rank == 0 && split.tensor > 1) {
      std::vector<std::size_t> workers;
      for (std::size_t r = 0; r < split.tensor; ++r)
        workers.push_back(shards[i + r]->dev->workers());
      for (std::size_t r = 1; r < split.tensor; ++r)
        with.others.push_back(shards[i + r]->compute);
      with.group = std::make_shared<device_group>(std::move(workers), limit);
    }
    shards[i]->start(std::move(with));
  }
}

/// Scheduler and first supervisor replace each other. When both have ended, this spawns another supervisor, which
/// replaces the scheduler.
class runtime_impl::last_resort : public std::enable_shared_from_this<last_resort> {
public:
  explicit last_resort(runtime_impl* of) : of_(of) {}

  /// Looks when `member` ends, at once when it has ended already.
  template <class Handle>
  void watch(const Handle& member) {
    cast::retry_on_bad_alloc([&] { cast::when_ended(member, [self = shared_from_this()] { self->look(); }); });
  }

  /// Held while a supervisor is spawned.
  [[nodiscard]] std::unique_lock<std::recursive_mutex> lock() { return std::unique_lock(mutex_); }
  /// Waits for a supervisor that is being spawned; none follows.
  void close() {
    const auto locked = lock();
    of_ = nullptr;
  }

private:
  /// On a thread of the actor system, or of who watches.
  void look() noexcept {
    const auto locked = lock();
    if (!of_ || of_->closed || of_->scheduler->closed())
      return;
    const auto supervisor = of_->shards.front()->supervisor->get();
    if (!supervisor || !cast::state_gone(supervisor).done() || !cast::state_gone(of_->scheduler->get()).done())
      return;
    try {
      if (!restarts_.allows_another(of_->shards.front()->progress()))
        throw error(errc::device_failed, "scheduler and supervisor ended again and again; open the runtime again");
      of_->log->of(log_component::supervisor).warning("scheduler and supervisor ended at once, and are replaced");
      (void)of_->supervise(0, supervisor.address());
    } catch (...) {
      const error why = error_of(std::current_exception());
      of_->scheduler->close(why);
      of_->batching->fail_all(why);
    }
  }

  std::recursive_mutex mutex_; ///< what is spawned may end before it is watched
  runtime_impl* of_;
  restart_limit restarts_;
};

void runtime_impl::spawn_sampler() {
  sampler->set(cast::spawn_sampler(*system, trace.get()));
  log->of(log_component::supervisor).debug("the sampler begins");
}

void runtime_impl::spawn_scheduler() {
  cast::scheduler_setup setup{batching, vocabulary, shards.front()->compute, sampler, trace.get()};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto get = [shard = shards[i]] { return caf::actor_cast<caf::actor>(shard->supervisor->get()); };
    setup.supervisors.push_back(
        {get, [this, i, get](const caf::actor_addr& ended) { return supervise(i, ended) ? get() : caf::actor{}; }});
  }
  for (const auto& shard : shards)
    setup.devices.push_back({.name = shard->name(),
                             .page_bytes = shard->page_bytes(),
                             .memory_manager = [shard] { return shard->pipeline->get().memory_manager; },
                             .loader = [shard] { return shard->pipeline->get().loader; },
                             .supervisor = [shard] { return shard->supervisor->get(); },
                             .commits_later = shard->commits_later(),
                             .commit = [shard](const lease& extent) { return shard->commit_pages(extent); }});
  setup.flow = flow;
  if (store)
    setup.on_idle = [this] { store->trim(); };
  if (mover)
    setup.move = [this](std::shared_ptr<page_move> m) { mover->start(std::move(m)); };
  setup.totals = [this] {
    cast::read_totals all;
    for (const auto& shard : shards) {
      const auto read = shard->read();
      all.bytes += read.bytes;
      all.seconds += read.seconds;
    }
    return all;
  };
  setup.progress = [this] {
    std::uint64_t all = 0;
    for (const auto& shard : shards)
      all += shard->progress();
    const auto moved = store ? store->usage() : kv_store_usage{};
    return all + moved.saved + moved.restored;
  };
  setup.end_members = [this] {
    for (const auto& shard : shards)
      cast::send_exit(shard->compute->get());
    cast::send_exit(sampler->get());
  };
  setup.between_looks = hooks_.between_looks;
  setup.idle_after = hooks_.idle_after;
  setup.log = log->of(log_component::scheduler);
  setup.supervisor_log = log->of(log_component::supervisor);
  scheduler->set(cast::spawn_scheduler(*system, std::move(setup)));
  log->of(log_component::supervisor).debug("the scheduler begins");
  last_resort_->watch(scheduler->get());
}

bool runtime_impl::supervise(std::size_t shard, const caf::actor_addr& ended) {
  const auto locked = last_resort_->lock();
  if (closed)
    return false;
  // A scheduler that a new supervisor spawned may begin before the role has that supervisor, and hear of the end of the
  // one before. Two supervisors would spawn two schedulers over one batcher.
  if (const auto holder = shards[shard]->supervisor->get(); holder && holder.address() != ended)
    return true;
  std::vector<cast::supervised_member> others;
  if (shard == 0) {
    const auto get_sampler = [this] { return caf::actor_cast<caf::actor>(sampler->get()); };
    others.push_back({"sampler", get_sampler, [this, get_sampler] {
                        spawn_sampler();
                        return get_sampler();
                      }});
    const auto get_scheduler = [this] { return caf::actor_cast<caf::actor>(scheduler->get()); };
    others.push_back({"scheduler", get_scheduler,
                      [this, get_scheduler] {
                        spawn_scheduler();
                        return get_scheduler();
                      },
                      [this](const error& why) {
                        scheduler->close();
                        batching->fail_all(why);
                      }});
  }
  shards[shard]->supervise(std::move(others), scheduler);
  if (shard == 0)
    last_resort_->watch(shards.front()->supervisor->get());
  return true;
}

void runtime_impl::shut_down() noexcept {
  if (closed.exchange(true))
    return;
  reserve_.reset();
  if (yielder_)
    yielder_->stop(); // a change in flight ends with the scheduler
  // Actors that ask go before those that answer, and the supervisors first: this is no fault. The handles stay, for
  // late callers.
  if (last_resort_)
    last_resort_->close();
  for (const auto& shard : shards)
    shard->end_supervisor();
  cast::end_role(*system, *scheduler);
  cast::end_role(*system, *sampler);
  log->of(log_component::supervisor).debug("scheduler and sampler are ended");
  if (yielder_)
    yielder_->join();
  if (batching)
    batching->fail_all(error(errc::cancelled, "the runtime was closed before the reply ended"));
  mover.reset(); // what was given up is saved first
  for (const auto& shard : shards)
    shard->end_compute();
  for (const auto& shard : shards)
    shard->stop_pipeline();
  if (trace) {
    try {
      trace->write(config.trace);
    } catch (const error& e) {
      // It could be written when the runtime was opened; a disk that filled since costs the trace, not the program.
      log->of(log_component::runtime).error("the trace is lost: {}", e.what());
    }
  }
  log_closing();
}

runtime_impl::~runtime_impl() {
  shut_down();
}

std::vector<token_id> runtime_impl::encode(std::span<const chat_message> messages) const {
  if (messages.empty())
    throw error(errc::invalid_argument, "the conversation is empty; give at least one message");
  if (!chat)
    throw error(*chat_failure);
  std::size_t bytes = 0, tokens = 0;
  for (const auto& m : messages) {
    constexpr std::string_view blanks = " \t\r\n\v\f"; // which templates may leave out
    const std::string_view content = m.content;
    const auto first = std::min(content.find_first_not_of(blanks), content.size());
    const auto behind = content.find_last_not_of(blanks) + 1;
    const auto text = content.substr(first, behind > first ? behind - first : 0);
    bytes += text.size();
    tokens += tok->min_tokens(text);
  }
  require_may_fit(bytes, tokens);
  std::call_once(told_of_template_, [&] { notify(chat->notices()); });
  return chat->encode(*tok, messages);
}

/// Tokenising takes memory for each byte: a text that can't fit is refused before.
void runtime_impl::require_may_fit(std::size_t bytes, std::size_t min_tokens) const {
  const std::size_t context = shards.front()->input.shape.context;
  constexpr std::size_t soon_counted = std::size_t{1} << 16; // with the true number for the sentence
  if (bytes <= soon_counted || min_tokens <= context)
    return;
  const bool longer = bytes < facts.trained_context;
  throw error(errc::context_full,
              fmt::format("the prompt has {} bytes, at least {} tokens, and the context holds {}; shorten it{}", bytes,
                          min_tokens, context, longer ? " or open the model with a longer context" : ""),
              longer ? remedy::context : remedy::none);
}

std::vector<token_id> runtime_impl::encode(std::string_view text, bool special) const {
  require_may_fit(text.size(), tok->min_tokens(text));
  if (special && tok->add_bos() && tok->begins_with_bos(text))
    std::call_once(told_of_bos_, [&] {
      const std::string once[] = {fmt::format("the prompt begins with {} itself: no second one is put before it",
                                              tok->piece(tok->bos(), true))};
      notify(once);
    });
  return tok->encode(text, {tok->add_bos(), special});
}

std::vector<memory_report> runtime_impl::memory() const {
  std::vector<memory_report> out;
  for (const auto& u : arbiter->usage()) {
    memory_report r{u.device, u.budget, u.in_use, u.high_water, {}, u.waiters, u.waiting_bytes, u.pool.fragmentation()};
    for (std::size_t p = 0; p < purpose_count; ++p)
      r.purposes.push_back(
          {std::string(to_string(static_cast<purpose>(p))), u.by_purpose[p], u.high_water_by_purpose[p]});
    out.push_back(std::move(r));
  }
  return out;
}

void runtime_impl::set_budget(std::size_t bytes, std::string_view name) {
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  std::string names;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto& shard = *shards[i];
    if (name == shard.name() || (name.empty() && shards.size() == 1)) {
      shard.check_budget(bytes);
      const auto set = [&] { change_budget(i, bytes); };
      return yielder_ ? yielder_->client_sets(shard.name(), bytes, set) : set();
    }
    names += (names.empty() ? "" : ", ") + shard.name();
  }
  throw error(errc::invalid_argument, name.empty() ? fmt::format("say whose budget changes; the devices are {}", names)
                                                   : fmt::format("there is no device {}, only {}", name, names));
}

void runtime_impl::change_budget(std::size_t shard, std::size_t bytes) {
  (void)cast::ask_role<cast::budget_changed>(*system, *scheduler, cast::change_budget{shard, bytes});
  log->of(log_component::memory).info("{}: the budget is {} now", shards[shard]->name(), human_bytes{bytes});
}

sequence_request runtime_impl::make_request(std::vector<token_id> prompt, const generation_options& options, bool score,
                                            std::shared_ptr<reply_sink> sink) {
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  sequence_request request;
  request.id = next_request.fetch_add(1);
  request.prompt = std::move(prompt);
  request.options = options;
  request.score = score;
  request.sink = std::move(sink);
  request.submitted = std::chrono::steady_clock::now();
  request.abandoned = std::make_shared<std::atomic<bool>>(false);
  const std::size_t context = shards.front()->input.shape.context;
  try { // what can't be right is refused with its own sentence
    check_request(request, {vocabulary, context, facts.trained_context});
    request.memory = room->take(request_bytes(request.prompt.size(), request.options, context));
  } catch (const error& e) {
    log->of(log_component::scheduler)
        .debug("request {} is refused ({}): {}", request.id, to_string(e.code()), e.what());
    throw;
  }
  return request;
}

request_id runtime_impl::submit(sequence_request request) {
  return cast::ask_role<cast::request_accepted>(*system, *scheduler, cast::submit_request{std::move(request)}).id;
}

load_report runtime_impl::load() const {
  const auto state = cast::ask_role<cast::batch_state>(*system, *scheduler, cast::query_batch{});
  const auto& usage = state.usage;
  load_report out{usage.active,    usage.waiting, usage.pages_in_use, usage.pages_cached, usage.preemptions, 0,
                  state.page_limit};
  const auto seconds = [](std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); };
  const auto now = std::chrono::steady_clock::now();
  for (const auto& m : state.moves)
    out.moves.push_back(
        {seconds(now - m.ended), seconds(m.ended - m.began), m.kv_pages * kv_page_tokens, m.streamed_bytes, m.reason});
  if (store) {
    const auto u = store->usage();
    out.store = {u.host_pages, u.host_bytes, u.disk_pages, u.disk_bytes, u.saved, u.restored, u.damaged};
  }
  for (const auto& shard : shards)
    out.restarts += cast::ask_role<cast::cast_health>(*system, *shard->supervisor, cast::query_health{}).restarts;
  return out;
}

} // namespace tropilla
