// Divides the work of each operation between the workers.
#include "kernels/host/host_ops.hpp"

#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cstring>

namespace tropilla::host {
namespace {

constexpr std::size_t scratch_alignment = 64;

} // namespace

std::size_t host_scratch::bytes(std::size_t workers) noexcept {
  const std::size_t linear = round_up(linear_scratch_bytes(), scratch_alignment);
  return workers * (attention_bytes + shared_bytes + linear);
}

host_scratch host_scratch::divide(std::byte* base, std::size_t bytes, std::size_t workers) noexcept {
  return {base, round_down(bytes / workers - attention_bytes - shared_bytes, scratch_alignment)};
}

float* host_scratch::attention(std::size_t worker) const noexcept {
  return reinterpret_cast<float*>(base + worker * attention_bytes);
}

float* host_scratch::shared(std::size_t workers) const noexcept {
  return reinterpret_cast<float*>(base + workers * attention_bytes);
}

std::byte* host_scratch::linear(std::size_t worker, std::size_t workers) const noexcept {
  return base + workers * (attention_bytes + shared_bytes) + worker * linear_bytes;
}

kernel_set kernels_of(std::string_view isa) {
  const auto& linear = linear_kernels(isa);
  if (isa == "avx512")
    return {&avx512::rows(), &avx512::attention(), &linear};
  if (isa == "avx2")
    return {&avx2::rows(), &avx2::attention(), &linear};
  return {&scalar::rows(), &scalar::attention(), &linear};
}

template <class F>
void host_ops::for_pieces(std::size_t rows, std::size_t width, F&& f) {
  const std::size_t pieces = divide_up(width, row_piece);
  const auto [first, last] = share_of(rows * pieces);
  for (std::size_t i = first; i < last;) {
    const std::size_t row = i / pieces;
    const std::size_t begin = i - row * pieces;
    const std::size_t end = std::min(pieces, begin + (last - i));
    f(row, begin, end);
    i += end - begin;
  }
}

void host_ops::embed(const packed_matrix& table, std::int32_t first, std::span<const std::int32_t> ids, float* x) {
  const std::size_t width = table.layout.columns;
  const auto [begin, end] = share_of(ids.size());
  for (std::size_t r = begin; r < end; ++r) {
    const std::span row(x + r * width, width);
    const auto at = static_cast<std::uint32_t>(ids[r] - first); // huge where it is less
    if (at < table.layout.rows)
      unpack_row(table.layout, table.data, at, row);
    else
      std::ranges::fill(row, 0.0F);
  }
  worker_.barrier();
}

void host_ops::rms_norm(const float* x, const float* weight, float epsilon, std::size_t rows, const activation& out) {
  // Workers that share a row each compute its factor: that costs less than another barrier.
  const auto view = view_of(out, precise_);
  const std::size_t width = out.width;
  for_pieces(rows, width, [&](std::size_t row, std::size_t first, std::size_t last) {
    const float* const from = x + row * width;
    const float factor = kernels_.rows->inverse_rms(from, width, epsilon);
    kernels_.rows->store_scaled(from, factor, weight, width, first, last, row_of(view, row));
  });
  worker_.barrier();
}

void host_ops::quantise_activation(const float* x, std::size_t stride, std::size_t rows, const activation& out) {
  const auto view = view_of(out, precise_);
  for_pieces(rows, out.width, [&](std::size_t row, std::size_t first, std::size_t last) {
    kernels_.rows->store_plain(x + row * stride, out.width, first, last, row_of(view, row));
  });
  worker_.barrier();
}

void host_ops::linear(const activation& input, std::size_t rows, std::span<const linear_target> targets) {
  host::linear(*kernels_.linear, worker_, scratch_.linear(worker(), workers()), input, precise_, rows, targets);
  worker_.barrier();
}

void host_ops::gated_linear(const activation& input, std::size_t rows, const packed_matrix& gate,
                            const packed_matrix& up, const activation& out) {
  host::gated_linear(*kernels_.linear, *kernels_.rows, worker_, scratch_.linear(worker(), workers()), input, precise_,
                     rows, gate, up, out);
  worker_.barrier();
}

void host_ops::gather_rows(const float* x, std::size_t width, std::span<const std::size_t> rows, float* out) {
  const auto [first, last] = share_of(rows.size());
  for (std::size_t i = first; i < last; ++i)
    std::memcpy(out + i * width, x + rows[i] * width, width * sizeof(float));
  worker_.barrier();
}

void host_ops::copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  constexpr std::size_t line = 64;
  const auto [first, last] = share_of(bytes / line);
  std::memcpy(to + first * line, from + first * line, (last - first) * line);
  worker_.barrier();
}

void host_ops::top_k(float*, std::size_t, std::size_t, std::size_t, token_logit*) {
  throw error(errc::internal, "logits lie in the processor's memory: it finds the top-k itself");
}

} // namespace tropilla::host
