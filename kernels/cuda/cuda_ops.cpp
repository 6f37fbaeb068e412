// Tables go to the scratch, kernels to the stream.
#include "kernels/cuda/cuda_ops.hpp"

#include "kernels/cuda/step_tables.hpp"
#include "kernels/kv_cache.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tropilla::cuda {
namespace {

constexpr std::size_t aligned(std::size_t bytes) noexcept {
  constexpr std::size_t alignment = 256;
  return (bytes + alignment - 1) / alignment * alignment;
}

/// Rows of a gated product that have their gates in the scratch at a time: enough to keep a GPU busy.
constexpr std::size_t gated_rows = 256;

std::size_t workspace_bytes(std::size_t rows, std::size_t width, std::size_t pages) noexcept {
  const std::size_t gates = 2 * std::min(rows, gated_rows) * width * sizeof(float);
  // Heads of two numbers or more: what is in a slot is no more than twice its values.
  const std::size_t slots = step_tables::most_slots(pages) * 2 * width * sizeof(float);
  return aligned(std::max(gates, slots));
}

std::size_t table_bytes(std::size_t rows, std::size_t pages) noexcept {
  return aligned(rows * sizeof(row_place)) + 2 * aligned(rows * sizeof(std::uint32_t)) +
         aligned((pages + rows) * sizeof(std::byte*)) +
         aligned(step_tables::most_items(rows, pages) * sizeof(attention_item));
}

} // namespace

std::size_t cuda_ops::scratch_bytes(std::size_t rows, std::size_t width, std::size_t pages) noexcept {
  return table_bytes(rows, pages) + workspace_bytes(rows, width, pages);
}

/// From the end down: tables are as large as a step needs, and the workspace is what they leave.
std::byte* cuda_ops::take(std::size_t bytes) {
  used_ += aligned(bytes);
  if (used_ > scratch_.bytes)
    throw error(errc::internal,
                fmt::format("a step's tables need {} bytes, and the scratch has {}", used_, scratch_.bytes));
  return scratch_.base + scratch_.bytes - used_;
}

template <class T>
const T* cuda_ops::upload(std::span<T> values) {
  auto* const to = take(values.size_bytes());
  gpu_.copy(stream_, values.data(), to, values.size_bytes());
  return reinterpret_cast<const T*>(to);
}

void cuda_ops::place(const attention_shape& shape, std::span<const sequence_rows> sequences) {
  if (step_.places != nullptr)
    return;
  const step_tables tables(shape, sequences);
  step_.rows = static_cast<std::uint32_t>(tables.places.size());
  step_.item_count = static_cast<std::uint32_t>(tables.items.size());
  step_.slots = tables.slots;
  step_.page_starts = upload(std::span(tables.page_starts));
  step_.places = upload(std::span(tables.places));
  step_.items = upload(std::span(tables.items));
}

void cuda_ops::embed(const packed_matrix& table, std::span<const std::int32_t> ids, float* x) {
  const std::size_t before = used_;
  gpu_.kernels().embed(stream_, table, upload(ids), ids.size(), x);
  used_ = before; // what comes next on the stream may write there
}

void cuda_ops::rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows, const activation& out) {
  gpu_.kernels().rms_norm(stream_, x, weight, epsilon, rows, out.width, host::locate(out, false));
}

void cuda_ops::quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) {
  gpu_.kernels().store(stream_, x, stride, rows, out.width, host::locate(out, false));
}

void cuda_ops::linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) {
  gpu_.kernels().linear(stream_, host::locate(input, false), rows, targets);
}

void cuda_ops::rope_and_append(float* q, const float* k, const float* v, std::size_t stride,
                               const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                               std::span<const sequence_rows> sequences) {
  place(shape, sequences);
  gpu_.kernels().rope_and_append(stream_, q, k, v, stride, shape, rope, layer, step_);
}

void cuda_ops::attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                         std::span<const sequence_rows> sequences, float* out) {
  place(shape, sequences);
  gpu_.kernels().attention(stream_, q, stride, shape, layer, step_, out, scratch_.base);
}

void cuda_ops::gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate,
                            const packed_matrix& up, const activation& out) {
  auto in = host::locate(input, false);
  auto to = host::locate(out, false);
  auto* const gates = reinterpret_cast<float*>(scratch_.base);
  for (std::size_t first = 0; first < rows; first += gated_rows) {
    const std::size_t count = std::min(gated_rows, rows - first);
    float* const gated = gates + count * out.width;
    const std::array<linear_target, 2> both = {{{gate, gates, out.width, false}, {up, gated, out.width, false}}};
    gpu_.kernels().linear(stream_, host::parts_from(in, first), count, both);
    gpu_.kernels().store_swiglu(stream_, gates, gated, out.width, count, out.width, host::parts_from(to, first));
  }
}

void cuda_ops::gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) {
  const std::vector<std::uint32_t> numbers(rows.begin(), rows.end());
  const std::size_t before = used_;
  gpu_.kernels().gather_rows(stream_, x, width, upload(std::span<const std::uint32_t>(numbers)), rows.size(), out);
  used_ = before;
}

void cuda_ops::copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  gpu_.copy(stream_, from, to, bytes);
}

} // namespace tropilla::cuda
