// Makes a plan from a configuration; reads nothing but the model's header.
#include "runtime/prepared_model.hpp"

#include "memory/bytes.hpp"
#include "runtime/plan_reports.hpp"
#include "src/schedule/request_room.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

constexpr std::size_t default_contexts = 4; // few sequences are as long as they may be

/// Measured with two threads: the resident set was 13.3 MiB above the plan for a vocabulary of 1,024 tokens, and 12.6
/// MiB for 49,152, where not all of the plan was touched.
std::size_t outside_bytes(std::size_t vocabulary) {
  constexpr std::size_t program = std::size_t{12} << 20, of_token = 64;
  return program + vocabulary * of_token;
}

} // namespace

std::size_t choose_context(std::size_t wanted, const llama_config& model) {
  const std::size_t context = wanted > 0 ? wanted : std::min(model.context, default_context);
  if (context < 2 || context > model.context)
    throw error(errc::invalid_argument,
                fmt::format("the context must be 2 to {} tokens, what the model was trained for, not {}", model.context,
                            context));
  return context;
}

namespace {

/// `batch_tokens`: of a step, where the configuration does not say.
run_shape choose_shape(const runtime_config& config, const llama_config& model, std::size_t batch_tokens) {
  run_shape s;
  s.context = choose_context(config.context, model);
  if (config.sequences < 1 || config.sequences > max_sequences)
    throw error(errc::invalid_argument,
                fmt::format("1 to {} sequences can be computed together, not {}", max_sequences, config.sequences));
  s.sequences = config.sequences;
  if (config.kv_tokens > 0 && config.kv_tokens < s.context)
    throw error(errc::invalid_argument,
                fmt::format("{} tokens with KV pages are fewer than the context of {}", config.kv_tokens, s.context));
  s.kv_tokens = config.kv_tokens > 0 ? config.kv_tokens : s.context * std::min(s.sequences, default_contexts);
  s.max_batch_tokens = std::min(config.max_batch_tokens ? config.max_batch_tokens : batch_tokens, s.kv_tokens);
  s.max_batch_tokens = std::max(s.max_batch_tokens, s.sequences);
  s.logit_rows = std::clamp<std::size_t>(std::max(config.logit_rows, s.sequences), 1, s.max_batch_tokens);
  s.request_bytes = std::max(config.request_bytes, default_request_bytes(s.sequences, s.context));
  if (!config.kv_type.empty()) {
    const auto type = kv_type_from_name(config.kv_type);
    if (!type)
      throw error(errc::invalid_argument,
                  fmt::format("keys and values can be stored as f16, bf16 or q8_0, not as \"{}\"", config.kv_type));
    s.kv = *type;
  }
  return s;
}

/// The shapes that a configuration allows on these devices; `on_any` is the one for `default_batch_tokens`.
shape_choice choose_shapes(const runtime_config& config, const llama_config& model, const run_shape& on_any,
                           const std::vector<placed_shard>& shards) {
  std::size_t useful = shards.front().dev->useful_batch_tokens();
  for (const auto& s : shards)
    useful = std::min(useful, s.dev->useful_batch_tokens());
  shape_choice choice{on_any, std::nullopt, config.kv_tokens > 0};
  if (useful == default_batch_tokens)
    return choice;
  choice.first = choose_shape(config, model, useful);
  if (config.max_batch_tokens == 0 && choice.first.max_batch_tokens > default_batch_tokens)
    choice.smaller_steps = on_any;
  return choice;
}

/// Whether it is for the split to say how many devices there are: none is named, or one of the host, to give a budget.
bool split_names_devices(const runtime_config& config) {
  return config.devices.empty() || (config.devices.size() == 1 && config.devices[0].name == "host:0");
}

/// The devices that a configuration names; when it names none, as many of the host as the split is between, with equal
/// shares of the budget.
std::vector<device_budget> devices_of(const runtime_config& config, const device_split& split) {
  auto devices = config.devices;
  const std::size_t made = split_names_devices(config) ? split.devices() : 0;
  if (made > 0) {
    const device_budget all =
        devices.empty() ? device_budget{"", config.budget_bytes, config.budget_percent} : devices.front();
    const std::size_t each = all.bytes > 0 ? std::max<std::size_t>(1, all.bytes / made) : 0; // 0: no budget
    devices.clear();
    for (std::size_t i = 0; i < made; ++i)
      devices.push_back({fmt::format("host:{}", i), each, all.percent / static_cast<double>(made)});
  }
  check_device_names(devices);
  for (const auto& d : devices) {
    if (d.percent != 0 && (d.bytes > 0 || !(d.percent > 0 && d.percent <= 100)))
      throw error(errc::invalid_argument,
                  fmt::format("the budget of {} is bytes or more than 0 and up to 100 percent, not {} bytes and {}%",
                              d.name, d.bytes, d.percent));
    if (made == 0 && split.pipeline > 1 && d.bytes == 0 && d.percent == 0)
      throw error(errc::invalid_argument, fmt::format("{} needs a budget of its own", d.name));
  }
  return devices;
}

/// The devices, opened, before any of them has layers.
std::vector<placed_shard> open_shards(const prepared_model& m, const std::vector<device_budget>& devices,
                                      const runtime_config& config, const runtime_hooks& hooks) {
  auto opened = open_devices(devices, {m.model.attention, config.precise, config.threads, config.isa, hooks.open_gpu});
  std::vector<placed_shard> shards(devices.size());
  if (const auto gpu = std::ranges::find_if(opened, [](const auto& o) { return !o.dev->host_memory(); });
      gpu != opened.end() && m.split.tensor > 1)
    throw error(errc::unsupported, fmt::format("{} can't share layers with other devices yet: tensor={} needs devices "
                                               "of the host, and pipeline={} divides the layers between any",
                                               gpu->dev->name(), m.split.tensor, devices.size()));
  bool requests_held = false;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    auto& s = shards[i];
    s.dev = std::move(opened[i].dev);
    s.budget = devices[i].bytes;
    s.has_budget = devices[i].bytes > 0 || devices[i].percent > 0;
    s.input = {m.model, {}, {}, s.dev.get(), m.file.files, config.packed_cache, config.io};
    s.input.limit = std::move(opened[i].limit);
    s.input.holds_requests = s.dev->host_memory() && !requests_held;
    requests_held = requests_held || s.input.holds_requests;
  }
  return shards;
}

/// What all devices of the host may use together.
memory_limit limit_of_host(const prepared_model& m, const memory_reading& now) {
  auto limit = limit_of(now, m.needs);
  const auto hosts =
      static_cast<std::size_t>(std::ranges::count_if(m.shards, [](const auto& p) { return p.dev->host_memory(); }));
  if (limit.addresses != unlimited)
    limit.addresses /= std::max<std::size_t>(hosts, 1);
  return limit;
}

/// Throws `error` (over_budget) when a store of keys and values leaves no memory for devices.
void require_room_for_store(std::size_t bytes, const memory_limit& limit) {
  if (bytes > 0 && bytes >= limit.bytes)
    throw error(
        errc::over_budget,
        fmt::format("keys and values that leave can't have {} of memory: {}, set by {}, are all that may be used, "
                    "also for the model; ask for less",
                    format_bytes(bytes), format_bytes(limit.bytes), limit.set_by));
}

/// Bytes in the place of percents.
void resolve_percents(std::vector<placed_shard>& shards, const std::vector<device_budget>& devices) {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const auto& limit = shards[i].input.limit;
    if (devices[i].percent == 0)
      continue;
    if (limit.set_by.empty())
      throw error(errc::invalid_argument,
                  fmt::format("the system does not say what {} may use; give its budget in bytes", devices[i].name));
    shards[i].budget = share_of(limit.bytes, devices[i].percent);
  }
}

/// Devices of the host without budgets share what all may use and others were not given.
void share_limit(std::vector<placed_shard>& shards) {
  const auto takes = [](const placed_shard& s) { return s.dev->host_memory() && !s.has_budget; };
  const auto count = static_cast<std::size_t>(std::ranges::count_if(shards, takes));
  std::size_t given = 0;
  for (const auto& s : shards)
    if (s.dev->host_memory() && s.has_budget)
      given += std::min(s.budget, unlimited - given);
  for (auto& s : shards)
    if (auto& bytes = s.input.limit.bytes; takes(s) && bytes != unlimited)
      bytes = (bytes - std::min(bytes, given)) / count;
}

/// The report of all devices, with their limits.
plan_report report_of(const prepared_model& m) {
  std::vector<plan_report> reports;
  for (const auto& s : m.shards)
    reports.push_back(describe(*s.placement, m.shape, s.placement->budget));
  auto out = add_up(reports);
  if (m.balance)
    out.divisions = describe(m.balance->kinds());
  out.outside_bytes = outside_bytes(m.model.vocabulary);
  for (std::size_t i = 0; i < m.shards.size(); ++i) {
    out.devices[i].limit_bytes = m.shards[i].input.limit.bytes;
    out.devices[i].limit_set_by = m.shards[i].input.limit.set_by;
  }
  try {
    m.require_fits();
  } catch (const error& e) {
    out.refusal = e.what();
  }
  return out;
}

} // namespace

void prepared_model::require_fits() const {
  for (const auto& s : shards) {
    const auto [bytes, set_by] = s.bound();
    tropilla::require_fits(s.full_plan, bytes, set_by);
  }
}

prepared_model prepared_model::open(const runtime_config& config, const runtime_hooks& hooks) {
  if (config.model.empty())
    throw error(errc::invalid_argument, "no model is named; give the path of a GGUF file");
  prepared_model m;
  m.file = gguf_file::open(config.model);
  m.model = llama_config::read(m.file);
  const auto on_any =
      choose_shape(config, m.model, default_batch_tokens); // mistakes are told before devices are opened
  m.split = parse_split(config.split, split_names_devices(config) ? 0 : config.devices.size());
  const auto devices = devices_of(config, m.split);
  m.shards = open_shards(m, devices, config, hooks);
  const auto shapes = choose_shapes(config, m.model, on_any, m.shards);
  const auto now = hooks.read_memory(); // after the devices' threads were made
  m.needs = needs_of_runtime(m.model.vocabulary, now.thread_stack);
  require_room_for_store(config.kv_host_bytes, limit_of(now, m.needs));
  m.needs.written += config.kv_host_bytes;
  const auto host_limit = limit_of_host(m, now);
  for (auto& s : m.shards) {
    s.input.shape = shapes.first;
    if (s.dev->host_memory())
      s.input.limit = host_limit;
  }
  resolve_percents(m.shards, devices);
  share_limit(m.shards);
  divide_model(m.shards, m.split, m.model, shapes.first.kv_tokens);
  divide_pinned(m.shards, config.pinned_bytes);
  placement_search search(m.shards, shapes);
  m.shape = search.find();
  m.balance = search.balance();
  m.report = report_of(m);
  m.notices = notices_of_limits(m.shards);
  return m;
}

} // namespace tropilla
