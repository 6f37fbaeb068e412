// Makes three measurements, each bounded in time.
#include "app/machine_speed.hpp"

#include "src/io/packed_weights.hpp"
#include "src/io/read_speed.hpp"
#include "src/model/layer_speed.hpp"

#include <algorithm>

namespace tropilla::app {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

llama_layout layout_of(const gguf_file& file) {
  return llama_layout::make(llama_config::read(file));
}

/// Returns 0 when the measurement throws.
template <class F>
double or_zero(F measure) {
  try {
    return measure();
  } catch (const std::exception&) {
    return 0;
  }
}

io_mode mode_of(const runtime_config& config) {
  // Unless it is asked for, the page cache would tell nothing about a model that it can't hold.
  return config.io.empty() || config.io == to_string(io_mode::direct) ? io_mode::direct : io_mode::buffered;
}

/// Measures reads of the file that a run would read: the packed weights, if they are there, else the largest part of
/// the model. Reads from the middle, where the layers lie.
double reads_per_second(const runtime_config& config, const gguf_file& file, const llama_layout& layout) {
  const auto largest = static_cast<std::size_t>(std::max_element(file.file_bytes.begin(), file.file_bytes.end()) -
                                                file.file_bytes.begin());
  auto path = file.files[largest];
  std::uint64_t bytes = file.file_bytes[largest];
  if (!config.packed_cache.empty())
    if (const auto packed = find_packed_weights(config.packed_cache, layout, file.files)) {
      path = packed->path();
      bytes = packed->file_bytes();
    }
  read_trial trial;
  trial.first = bytes / 2 / trial.read_bytes;
  trial.max_bytes = 256 * mib;
  trial.max_seconds = 0.1;
  return measure_reads(path, {.depth = 2 * best_read_depth, .mode = mode_of(config)}, trial).bytes_per_second();
}

/// The memory of a measurement: at most a quarter of what a run may take.
std::size_t max_memory(const plan_report& plan) {
  return plan.devices.front().limit_bytes / 4;
}

/// Measures decode. Its weights are at most what the run would hold, because the machine is asked for that much anyway.
double weights_per_second(const llama_layout& layout, device& dev, const plan_report& plan) {
  const std::size_t bytes = std::clamp(plan.total_bytes, 64 * mib, 256 * mib);
  const std::size_t max_bytes = max_memory(plan);
  return std::max(64 * mib, layout.groups[1].bytes) > max_bytes
             ? 0
             : measure_decode(layout, dev, std::min(bytes, max_bytes), 0.05);
}

double operations_per_second(const llama_layout& layout, device& dev, const plan_report& plan) {
  const std::size_t rows = plan.max_batch_tokens;
  const auto buffers = assign_offsets(forward_buffers(layout, {rows, rows, 1}, dev), 64);
  return buffers.bytes > max_memory(plan) ? 0 : measure_prefill(layout, dev, rows, 0.08);
}

} // namespace

machine_speed measure_machine(const runtime_config& config, const plan_report& plan) {
  const gguf_file file = gguf_file::open(config.model);
  const llama_layout layout = layout_of(file);
  host_options options;
  options.threads = config.threads;
  options.precise = config.precise;
  options.isa = config.isa;
  machine_speed out;
  out.read_bytes = or_zero([&] { return reads_per_second(config, file, layout); });
  out.memory_bytes = or_zero([&] { return weights_per_second(layout, *make_host_device(options), plan); });
  out.operations = or_zero([&] { return operations_per_second(layout, *make_host_device(options), plan); });
  return out;
}

step_cost cost_of(const runtime_config& config, const plan_report& plan) {
  const llama_layout layout = layout_of(gguf_file::open(config.model));
  step_cost out;
  out.streamed_bytes = plan.streamed_bytes;
  out.weight_bytes = plan.weight_bytes;
  out.max_batch_tokens = plan.max_batch_tokens;
  for (std::size_t g = 1; g < layout.norm_group(); ++g)
    out.layer_parameters += matrix_parameters(layout.groups[g]);
  const auto& head = layout.config.output ? layout.groups.back() : layout.groups.front();
  out.decode_parameters = out.layer_parameters + matrix_parameters(head);
  return out;
}

} // namespace tropilla::app
