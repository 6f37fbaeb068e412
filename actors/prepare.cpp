// From a configuration to a plan, reading nothing but the model's header.
#include "actors/runtime_impl.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

constexpr std::size_t default_context = 4096;

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

constexpr std::size_t default_step_rows = 512; // larger steps gain nothing: weights are reused enough, buffers grow

run_shape choose_shape(const runtime_config& config, const llama_config& model) {
  run_shape s;
  s.context = choose_context(config.context, model);
  s.step_rows = std::min(config.prefill_rows ? config.prefill_rows : default_step_rows, s.context);
  s.logit_rows = std::clamp<std::size_t>(config.logit_rows, 1, s.step_rows);
  return s;
}

} // namespace

plan_report describe(const weight_arrangement& weights, const run_shape& shape, std::size_t budget) {
  plan_report out;
  const auto& plan = weights.plan;
  for (const auto& item : plan.items)
    out.lines.push_back({plan.device, std::string(to_string(item.why)), item.name, item.bytes});
  out.total_bytes = plan.total;
  out.budget_bytes = budget ? budget : plan.total;
  out.context = shape.context;
  out.kv_pages = plan.kv_pages;
  out.kv_page_tokens = kv_page_tokens;
  out.prefill_rows = shape.step_rows;
  out.ring_slots = plan.ring_slots;
  out.slot_bytes = plan.slot_bytes;
  out.weight_bytes = weights.layout.decode_bytes();
  for (std::size_t g = 0; g < plan.streamed.size(); ++g) {
    out.residency += plan.streamed[g] ? 'S' : g == 0 && weights.layout.gathers_embedding() ? 'G' : 'R';
    out.streamed_bytes += plan.streamed[g] ? weights.layout.groups[g].bytes : 0;
  }
  return out;
}

prepared_model prepared_model::open(const runtime_config& config) {
  prepared_model m;
  m.file = gguf_file::open(config.model);
  m.input.model = llama_config::read(m.file);
  host_options host;
  host.threads = config.threads;
  host.precise = config.precise;
  host.isa = config.isa;
  m.dev = make_host_device(host);
  m.input.shape = choose_shape(config, m.input.model);
  m.input.dev = m.dev.get();
  m.input.files = m.file.files;
  m.input.packed_folder = config.packed_cache;
  m.input.io = config.io;
  m.weights = arrange(m.input, config.budget_bytes);
  m.report = describe(*m.weights, m.input.shape, config.budget_bytes);
  return m;
}

} // namespace tropilla
