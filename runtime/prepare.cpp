// Makes a plan from a configuration; reads nothing but the model's header.
#include "runtime/runtime_impl.hpp"

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/host/cpu_features.hpp"
#include "kernels/host/host_device.hpp"
#include "kernels/host/topology.hpp"
#include "memory/bytes.hpp"
#include "src/schedule/request_room.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <optional>

namespace tropilla {
namespace {

constexpr std::size_t default_context = 4096;

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

constexpr std::size_t max_sequences = 1024;
constexpr std::size_t default_contexts = 4;    // few sequences are as long as they may be
constexpr std::size_t host_batch_tokens = 512; // larger steps gain nothing: weights are reused enough, buffers grow
constexpr std::size_t gpu_batch_tokens =
    2048; // a GPU's blocks of threads come in waves, and the last one is mostly idle

/// The number of "cuda:3"; empty for what is no GPU's name.
std::optional<int> gpu_index(std::string_view name) {
  constexpr std::string_view prefix = "cuda:";
  if (!name.starts_with(prefix))
    return std::nullopt;
  name.remove_prefix(prefix.size());
  int index = 0;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (problem != std::errc{} || end != name.data() + name.size() || index < 0)
    return std::nullopt;
  return index;
}

std::size_t default_batch_tokens(const runtime_config& config) {
  const auto is_gpu = [](const device_budget& d) { return gpu_index(d.name).has_value(); };
  return std::ranges::all_of(config.devices, is_gpu) && !config.devices.empty() ? gpu_batch_tokens : host_batch_tokens;
}

/// `rows`: of a step, where the configuration does not say.
run_shape choose_shape(const runtime_config& config, const llama_config& model, std::size_t rows) {
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
  s.max_batch_tokens = std::min(config.prefill_chunk ? config.prefill_chunk : rows, s.kv_tokens);
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

} // namespace

plan_report describe(const weight_placement& weights, const run_shape& shape, std::size_t budget) {
  plan_report out;
  const auto& plan = weights.plan;
  for (const auto& item : plan.items)
    out.lines.push_back({plan.device, std::string(to_string(item.why)), item.name, item.bytes});
  out.total_bytes = plan.total;
  out.budget_bytes = budget ? budget : plan.total;
  auto& device = out.devices.emplace_back();
  device.name = plan.device;
  device.total_bytes = plan.total;
  device.budget_bytes = out.budget_bytes;
  out.context = shape.context;
  out.sequences = shape.sequences;
  out.kv_pages = plan.kv_pages;
  out.kv_tokens = plan.kv_pages * kv_page_tokens;
  out.kv_page_tokens = kv_page_tokens;
  out.kv_type = to_string(shape.kv);
  out.prefill_chunk = shape.max_batch_tokens;
  out.request_bytes = shape.request_bytes;
  out.ring_slots = plan.ring_slots;
  out.slot_bytes = plan.slot_bytes;
  out.weight_bytes = weights.layout.decode_bytes();
  for (std::size_t g = weights.layout.begin_group(); g < weights.layout.end_group(); ++g) {
    out.residency += plan.streamed[g] ? 'S' : g == 0 && weights.layout.embedding_on_disk() ? 'G' : 'R';
    out.streamed_bytes += plan.streamed[g] ? weights.layout.groups[g].bytes : 0;
  }
  return out;
}

std::pair<std::size_t, std::string> prepared_model::shard::bound() const {
  const auto& limit = input.limit;
  if (has_budget && weights->budget <= limit.machine)
    return {weights->budget, ""};
  return {std::min(weights->budget, limit.machine), has_budget ? "all memory that the machine has" : limit.set_by};
}

void prepared_model::require_fits() const {
  for (const auto& p : shards) {
    const auto [bytes, set_by] = p.bound();
    tropilla::require_fits(p.weights->plan, bytes, set_by);
  }
}

plan_report add_up(const std::vector<plan_report>& shards) {
  plan_report out = shards.front();
  for (std::size_t i = 1; i < shards.size(); ++i) {
    const auto& p = shards[i];
    out.lines.insert(out.lines.end(), p.lines.begin(), p.lines.end());
    out.total_bytes += p.total_bytes;
    out.budget_bytes += p.budget_bytes;
    out.weight_bytes += p.weight_bytes;
    out.residency += " " + p.residency;
    out.streamed_bytes += p.streamed_bytes;
    out.ring_slots += p.ring_slots;
    out.slot_bytes = std::max(out.slot_bytes, p.slot_bytes);
    out.devices.insert(out.devices.end(), p.devices.begin(), p.devices.end());
  }
  return out;
}

namespace {

/// The devices that a configuration names; one, when it names none.
std::vector<device_budget> devices_of(const runtime_config& config, const llama_config& model) {
  auto devices = config.devices;
  if (devices.empty())
    devices.push_back({"host:0", config.budget_bytes, config.budget_percent});
  if (devices.size() > model.layers)
    throw error(errc::invalid_argument, fmt::format("{} devices can't share {} layers", devices.size(), model.layers));
  std::size_t hosts = 0;
  for (auto d = devices.begin(); d != devices.end(); ++d) {
    if (!gpu_index(d->name) && d->name != fmt::format("host:{}", hosts++))
      throw error(errc::invalid_argument,
                  fmt::format("device {} must be host:{} (those of the host are numbered from 0) or a GPU (cuda:0, "
                              "cuda:1, ...), not \"{}\"",
                              d - devices.begin() + 1, hosts - 1, d->name));
    if (std::any_of(devices.begin(), d, [&](const device_budget& before) { return before.name == d->name; }))
      throw error(errc::invalid_argument, fmt::format("{} is named twice", d->name));
    if (d->percent != 0 && (d->bytes > 0 || !(d->percent > 0 && d->percent <= 100)))
      throw error(errc::invalid_argument,
                  fmt::format("the budget of {} is bytes or more than 0 and up to 100 percent, not {} bytes and {}%",
                              d->name, d->bytes, d->percent));
    if (devices.size() > 1 && d->bytes == 0 && d->percent == 0)
      throw error(errc::invalid_argument, fmt::format("{} needs a budget of its own", d->name));
  }
  return devices;
}

/// Kernels are loaded when they are first launched, and graphs made later: where that fails, a device is lost.
constexpr std::size_t memory_of_cuda = std::size_t{256} << 20;

struct opened_device {
  std::shared_ptr<device> dev;
  memory_limit limit{}; ///< of a GPU
};

/// `cores` is this device's share of the cores of `cpus`.
opened_device make_device(const device_budget& wanted, const runtime_config& config, const host::topology& cpus,
                          std::size_t cores, const attention_shape& heads, const gpu_factory& open_gpu) {
  if (const auto index = gpu_index(wanted.name)) {
    if (const auto size = std::max(heads.key_size, heads.value_size); size > cuda::largest_head)
      throw error(errc::unsupported,
                  fmt::format("{} takes heads of up to {} numbers, and this model's have {}; use a device of the host",
                              wanted.name, cuda::largest_head, size));
    if (heads.value_size < 2)
      throw error(errc::unsupported, fmt::format("{} takes heads of two values or more", wanted.name));
    if (config.precise)
      throw error(errc::unsupported, fmt::format("{} computes with int8 activations; precise ones need a device of the "
                                                 "host",
                                                 wanted.name));
    auto gpu = open_gpu(*index);
    const auto free = gpu->free_bytes();
    if (wanted.bytes > free)
      throw error(errc::over_budget, fmt::format("{} has {} free, less than its budget of {}; lower the budget, or end "
                                                 "what holds the rest",
                                                 wanted.name, format_bytes(free), format_bytes(wanted.bytes)));
    if (wanted.bytes > 0 && free - wanted.bytes < memory_of_cuda)
      throw error(errc::over_budget,
                  fmt::format("{} has {} free, and its budget of {} leaves less than the {} that CUDA may take for "
                              "kernels and graphs; lower the budget",
                              wanted.name, format_bytes(free), format_bytes(wanted.bytes),
                              format_bytes(memory_of_cuda)));
    memory_limit limit;
    if (free > memory_of_cuda) {
      limit.bytes = free - memory_of_cuda;
      limit.set_by = fmt::format("the {} that {} has free, less what CUDA takes", format_bytes(free), wanted.name);
    }
    return {std::make_unique<cuda::cuda_device>(wanted.name, std::move(gpu)), std::move(limit)};
  }
  host_options options;
  options.name = wanted.name;
  options.threads = config.threads > 0 ? config.threads : cores;
  options.precise = config.precise;
  options.isa = config.isa;
  return {std::make_unique<host::host_device>(options, cpus)};
}

/// As many layers for each device as its share of the budgets, without what requests hold, and at least one.
std::vector<layer_range> divide_layers(const std::vector<device_budget>& devices, const prepared_model& m) {
  const auto bytes_for_layers = [&](std::size_t i) {
    const std::size_t requests = m.shards[i].input.request_bytes(m.shape.kv_tokens);
    return static_cast<double>(devices[i].bytes > requests ? devices[i].bytes - requests : devices[i].bytes);
  };
  const std::size_t layers = m.model.layers;
  double all = 0, so_far = 0;
  for (std::size_t i = 0; i < devices.size(); ++i)
    all += bytes_for_layers(i);
  std::vector<layer_range> out;
  std::size_t first = 0;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    so_far += bytes_for_layers(i);
    const std::size_t after = devices.size() - 1 - i;
    const auto wanted = static_cast<std::size_t>(static_cast<double>(layers) * so_far / std::max(all, 1.0) + 0.5);
    const std::size_t last = after == 0 ? layers : std::clamp(wanted, first + 1, layers - after);
    out.push_back({first, last});
    first = last;
  }
  return out;
}

/// Of memory of the processor: as much for each device that has none of it.
void divide_pinned(auto& shards, std::size_t bytes) {
  const auto apart = [](const auto& p) { return !p.dev->host_memory(); };
  const auto count = static_cast<std::size_t>(std::ranges::count_if(shards, apart));
  if (bytes > 0 && count == 0)
    throw error(errc::invalid_argument, "pinned memory keeps weights that a GPU streams, and no GPU is asked for; "
                                        "name one in the budget: cuda:0=4GiB");
  for (auto& p : shards)
    if (apart(p))
      p.input.pinned_bytes = bytes / count;
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

/// Bytes in the place of percents.
void resolve_percents(std::vector<device_budget>& devices, const prepared_model& m) {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    auto& d = devices[i];
    const auto& limit = m.shards[i].input.limit;
    if (d.percent == 0)
      continue;
    if (limit.set_by.empty())
      throw error(errc::invalid_argument,
                  fmt::format("the system does not say what {} may use; give its budget in bytes", d.name));
    d.bytes = share_of(limit.bytes, d.percent);
  }
}

/// What a limit changed, and budgets that are above it.
std::vector<std::string> notices_of_limits(const std::vector<prepared_model::shard>& shards) {
  std::vector<std::string> out;
  std::size_t given = 0;
  for (const auto& p : shards) {
    const auto& limit = p.input.limit;
    const auto& plan = p.weights->plan;
    if (p.dev->host_memory() && p.has_budget)
      given += p.weights->budget;
    if (p.has_budget || p.everything <= limit.bytes || !p.fits())
      continue;
    std::size_t streamed = 0;
    for (std::size_t g = 0; g < p.weights->layout.groups.size(); ++g)
      streamed += plan.streamed[g] ? p.weights->layout.groups[g].bytes : 0;
    out.push_back(fmt::format("{} may use {}, set by {}, and everything would take {}: {}", plan.device,
                              format_bytes(limit.bytes), limit.set_by, format_bytes(p.everything),
                              streamed > 0 ? format_bytes(streamed) + " of weights are streamed for every step"
                                           : fmt::format("{} tokens have KV pages", plan.kv_pages * kv_page_tokens)));
  }
  const auto host = std::ranges::find_if(shards, [](const auto& p) { return p.dev->host_memory(); });
  if (host != shards.end() && given > host->input.limit.bytes)
    out.push_back(above_limit(given, host->input.limit));
  return out;
}

} // namespace

prepared_model prepared_model::open(const runtime_config& config, const runtime_hooks& hooks) {
  if (config.model.empty())
    throw error(errc::invalid_argument, "no model is named; give the path of a GGUF file");
  prepared_model m;
  m.file = gguf_file::open(config.model);
  m.model = llama_config::read(m.file);
  m.shape = choose_shape(config, m.model, default_batch_tokens(config));
  auto devices = devices_of(config, m.model);
  const auto cpus = host::read_topology();
  const auto cores = std::max<std::size_t>(1, host::usable_cores(cpus) / devices.size());
  for (const auto& wanted : devices) {
    shard p;
    auto opened = make_device(wanted, config, cpus, cores, m.model.attention, hooks.open_gpu);
    p.dev = std::move(opened.dev);
    p.input = {m.model, m.shape, {}, p.dev.get(), m.file.files, config.packed_cache, config.io};
    p.input.limit = std::move(opened.limit);
    p.has_budget = wanted.bytes > 0 || wanted.percent > 0;
    p.input.holds_requests = p.dev->host_memory() && std::ranges::none_of(m.shards, [](const shard& before) {
                               return before.input.holds_requests;
                             });
    m.shards.push_back(std::move(p));
  }
  const auto now = hooks.read_memory(); // after the devices' threads were made
  m.needs = needs_of_runtime(m.model.vocabulary, now.thread_stack);
  const auto host_limit = limit_of_host(m, now);
  for (auto& p : m.shards)
    if (p.dev->host_memory())
      p.input.limit = host_limit;
  resolve_percents(devices, m);
  const auto ranges = divide_layers(devices, m);
  for (std::size_t i = 0; i < devices.size(); ++i)
    m.shards[i].input.layers = ranges[i];
  divide_pinned(m.shards, config.pinned_bytes);
  const auto place_for = [&](std::size_t kv_tokens) {
    m.shape.kv_tokens = kv_tokens;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      auto& p = m.shards[i];
      p.input.shape = m.shape;
      p.weights = place(p.input, devices[i].bytes);
      p.everything = std::max(p.everything, p.weights->plan.total);
      if (devices[i].bytes == 0 && p.weights->plan.total > p.input.limit.bytes) {
        devices[i].bytes = std::max<std::size_t>(p.input.limit.bytes, 1);
        p.weights = place(p.input, devices[i].bytes);
      }
    }
  };
  // Weights that stay are worth more than pages for many sequences, which can wait for each other.
  const auto streams = [](const shard& p) { return p.weights->plan.ring_slots > 0; };
  const auto place_all = [&] {
    place_for(m.shape.kv_tokens);
    while (config.kv_tokens == 0 && m.shape.kv_tokens > m.shape.context && std::ranges::any_of(m.shards, streams)) {
      m.shape.max_batch_tokens = std::min(m.shape.max_batch_tokens, m.shape.kv_tokens - m.shape.context);
      place_for(m.shape.kv_tokens - m.shape.context);
    }
  };
  place_all();
  const auto exceeds = [](const shard& p) { return !p.fits(); };
  if (config.prefill_chunk == 0 && m.shape.max_batch_tokens > host_batch_tokens &&
      std::ranges::any_of(m.shards, exceeds)) {
    m.shape = choose_shape(config, m.model, host_batch_tokens);
    place_all();
  }
  if (config.kv_tokens == 0 && std::ranges::none_of(m.shards, streams)) {
    std::size_t pages = m.shape.context * std::min(m.shape.sequences, default_contexts) / kv_page_tokens;
    for (const auto& p : m.shards)
      pages = std::min(
          pages, p.weights->plan.kv_pages +
                     p.weights->spare_bytes /
                         (to_group_alignment(kv_page_bytes(p.weights->layout, m.shape.kv)) + kv_pages::bytes_per_page));
    if (pages > m.shape.kv_tokens / kv_page_tokens)
      place_for(pages * kv_page_tokens);
  }
  std::vector<plan_report> reports;
  for (std::size_t i = 0; i < devices.size(); ++i)
    reports.push_back(describe(*m.shards[i].weights, m.shape, devices[i].bytes));
  m.report = add_up(reports);
  m.report.outside_bytes = outside_bytes(m.model.vocabulary);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    m.report.devices[i].limit_bytes = m.shards[i].input.limit.bytes;
    m.report.devices[i].limit_set_by = m.shards[i].input.limit.set_by;
  }
  m.notices = notices_of_limits(m.shards);
  try {
    m.require_fits();
  } catch (const error& e) {
    m.report.refusal = e.what();
  }
  return m;
}

} // namespace tropilla
