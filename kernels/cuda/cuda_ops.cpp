// Implements the operations of a Llama layer for a GPU: each call is written down, with the tables that it names.
#include "kernels/cuda/cuda_ops.hpp"

#include "kernels/cuda/attention_metadata.hpp"
#include "kernels/kv_cache.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <span>

namespace tropilla::cuda {
namespace {

constexpr std::size_t aligned(std::size_t bytes) noexcept {
  return round_up(bytes, 256);
}

/// Rows of a gated product that have their gates in the scratch at a time: enough to keep a GPU busy, and whole blocks
/// of its kernels. On a GPU that makes it in one kernel, gates lie there only for types that this one does not take.
constexpr std::size_t gated_rows = 384;

/// Tables grow in powers of two: within one, steps are the same to a graph.
template <class T>
constexpr std::size_t table_of(std::size_t count) noexcept {
  return aligned(std::bit_ceil(count) * sizeof(T));
}

std::size_t workspace_bytes(bool rounds, std::size_t rows, std::size_t width, std::size_t pages) noexcept {
  const std::size_t gates = 2 * std::min(rows, gated_rows) * width * sizeof(float);
  const std::size_t rounded = rounds ? rounded_bytes(rows, width) : 0;
  // Heads of two numbers or more: what is in a slot is no more than twice its values.
  const std::size_t slots = std::bit_ceil(host_attention_metadata::max_slots(pages)) * 2 * width * sizeof(float);
  return aligned(std::max({gates, rounded, slots}));
}

std::size_t table_bytes(std::size_t rows, std::size_t pages) noexcept {
  return table_of<row_place>(rows) + 2 * table_of<std::uint32_t>(rows) + table_of<std::byte*>(pages + rows) +
         table_of<attention_item>(host_attention_metadata::max_items(rows, pages));
}

/// Writes one job down. What it names in the processor's memory is copied to the scratch when it is first named.
class cuda_ops final : public ops {
public:
  cuda_ops(gpu_api& gpu, const device_scratch& scratch, written_job& job) : gpu_(gpu), scratch_(scratch), job_(job) {
    job.calls.clear();
    job.tables.clear();
  }

  [[nodiscard]] std::size_t worker() const noexcept override { return 0; }
  [[nodiscard]] std::size_t workers() const noexcept override { return 1; }
  void barrier() override {} // the stream orders what its one worker calls

  [[nodiscard]] activation_view view(const activation& a) const noexcept override { return view_of(a, false); }

  void embed(const packed_matrix& table, std::int32_t first, std::span<const std::int32_t> ids, float* x) override {
    add(call::embed{table, first, upload(ids), ids.size(), x});
  }

  void rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows, const activation& out) override {
    add(call::rms_norm{x, weight, epsilon, rows, out.width, view_of(out, false)});
  }

  void quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) override {
    add(call::store{x, stride, rows, out.width, view_of(out, false)});
  }

  void linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) override {
    add_linear(view_of(input, false), rows, targets, gpu_.has_wgmma() ? scratch_.base : nullptr);
  }

  void rope_and_append(float* q, const float* k, const float* v, std::size_t stride, const attention_shape& shape,
                       const rope_table& rope, const kv_layer& layer,
                       std::span<const sequence_rows> sequences) override {
    upload_metadata(shape, sequences);
    add(call::rope_and_append{q, k, v, stride, shape, rope, layer, step_});
  }

  void attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                 std::span<const sequence_rows> sequences, float* out) override {
    upload_metadata(shape, sequences);
    add(call::attention{q, stride, shape, layer, step_, out, scratch_.base});
  }

  void gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate, const packed_matrix& up,
                    const activation& out) override {
    const auto in = view_of(input, false);
    const auto to = view_of(out, false);
    const packed_layout& w = gate.layout;
    if (gpu_.has_wgmma() && w == up.layout && wgmma_fits(w.type, rows, w.columns) && to.full != nullptr &&
        to.quantised.q == nullptr) {
      add(call::gated_linear{in, rows, gate, up, to, scratch_.base});
      return;
    }
    auto* const gates = reinterpret_cast<float*>(scratch_.base);
    for (std::size_t first = 0; first < rows; first += gated_rows) {
      const std::size_t count = std::min(gated_rows, rows - first);
      float* const gated = gates + count * out.width;
      const linear_target both[] = {{gate, gates, out.width, false}, {up, gated, out.width, false}};
      add_linear(in.from(first), count, both, nullptr);
      add(call::store_swiglu{gates, gated, out.width, count, out.width, to.from(first)});
    }
  }

  void gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) override {
    const std::vector<std::uint32_t> numbers(rows.begin(), rows.end());
    add(call::gather_rows{x, width, upload(std::span(numbers)), rows.size(), out});
  }

  void copy(const std::byte* from, std::byte* to, std::size_t bytes) override { add(copy_call{from, to, bytes}); }

  void top_k(float* logits, std::size_t rows, std::size_t vocabulary, std::size_t k, token_logit* out) override {
    add(call::top_k{logits, rows, vocabulary, k, out});
  }

private:
  void add(const gpu_call& c) { job_.calls.push_back(c); }

  void add_linear(const activation_view& input, std::size_t rows, std::span<const linear_target> targets,
                  std::byte* rounded) {
    for (; !targets.empty(); targets = targets.subspan(std::min(targets.size(), call::linear::max_targets))) {
      call::linear c{input, rows, {}, std::min(targets.size(), call::linear::max_targets), rounded};
      std::copy_n(targets.begin(), c.count, c.targets.begin());
      add(c);
    }
  }

  /// Puts a table into the scratch, from its end down: tables are as large as a step needs, and the workspace has the
  /// rest.
  template <class T>
  [[nodiscard]] const T* upload(std::span<T> values) {
    const std::size_t bytes = table_of<T>(values.size());
    auto& tables = job_.tables;
    tables.insert(tables.begin(), bytes, std::byte{0});
    if (tables.size() > scratch_.bytes)
      throw error(errc::internal,
                  fmt::format("a step's tables need {} bytes, and the scratch has {}", tables.size(), scratch_.bytes));
    std::memcpy(tables.data(), values.data(), values.size_bytes());
    return reinterpret_cast<const T*>(scratch_.base + scratch_.bytes - tables.size());
  }

  void upload_metadata(const attention_shape& shape, std::span<const sequence_rows> sequences) {
    if (step_.places != nullptr)
      return;
    const host_attention_metadata tables(shape, sequences);
    step_.rows = static_cast<std::uint32_t>(tables.places.size());
    // As many as the table has room for: those behind the step's are of no rows.
    step_.item_count = static_cast<std::uint32_t>(std::bit_ceil(tables.items.size()));
    step_.slots = tables.slots == 0 ? 0 : std::bit_ceil(tables.slots);
    step_.page_starts = upload(std::span(tables.page_starts));
    step_.places = upload(std::span(tables.places));
    step_.items = upload(std::span(tables.items));
  }

  gpu_api& gpu_;
  device_scratch scratch_;
  written_job& job_;
  attention_metadata step_;
};

} // namespace

void run_job(const compute_job& job, gpu_api& gpu, void* stream, const device_scratch& scratch, written_job& written,
             call_graphs& graphs) {
  cuda_ops o(gpu, scratch, written);
  job(o);
  if (const auto& tables = written.tables; !tables.empty())
    gpu.copy(stream, tables.data(), scratch.base + scratch.bytes - tables.size(), tables.size());
  graphs.run(written.calls, stream);
}

std::size_t scratch_bytes(const gpu_api& gpu, std::size_t rows, std::size_t width, std::size_t pages) noexcept {
  return table_bytes(rows, pages) + workspace_bytes(gpu.has_wgmma(), rows, width, pages);
}

} // namespace tropilla::cuda
