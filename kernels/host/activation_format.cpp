// Computes sizes and places of the parts of an activation buffer.
#include "kernels/host/activation_format.hpp"

#include "kernels/host/elementwise_kernels.hpp"
#include "memory/rounding.hpp"

namespace tropilla::host {
namespace {

constexpr std::size_t part_alignment = 64;

/// Lays the parts out one after another from `base` (null to measure); gives the bytes.
std::size_t lay_out(std::byte* base, activation_kind kind, std::size_t rows, std::size_t width,
                    activation_parts& out) noexcept {
  const bool full = kind == activation_kind::full || kind == activation_kind::both;
  std::size_t used = 0;
  const auto part = [&]<class T>(T*& where, std::size_t count) {
    where = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += round_up(count * sizeof(T), part_alignment);
  };
  const std::size_t padded = round_up(width, row_piece);
  if (kind != activation_kind::full) {
    out.row_parts = kind == activation_kind::residual_int8 ? 2 : 1;
    const std::size_t values = rows * out.row_parts * padded;
    out.quantised.padded = padded;
    part(out.quantised.q, values);
    part(out.quantised.scale, values / 32);
    part(out.quantised.sum32, values / 32);
    part(out.quantised.sum16, values / 16);
    part(out.quantised.minus32, values / 32);
    part(out.quantised.minus16, values / 16);
  }
  if (full) {
    out.full_stride = round_up(width, part_alignment / sizeof(float));
    part(out.full, rows * out.full_stride);
  }
  return used;
}

} // namespace

std::size_t activation_buffer_bytes(activation_kind kind, std::size_t rows, std::size_t width) noexcept {
  activation_parts parts;
  return lay_out(nullptr, kind, rows, width, parts);
}

activation_parts locate(const activation& a, bool precise) noexcept {
  activation_parts parts;
  lay_out(a.data, precise ? activation_kind::full : a.kind, a.rows, a.width, parts);
  return parts;
}

row_target row_of(const activation_parts& parts, std::size_t row) noexcept {
  const activation_parts from = parts_from(parts, row);
  const quantised_rows& q = from.quantised;
  row_target out{q.q, q.scale, q.sum32, q.sum16, q.minus32, q.minus16};
  out.rest = q.q != nullptr && from.row_parts > 1 ? q.padded : 0;
  out.full = from.full;
  out.full_stride = from.full != nullptr ? from.full_stride : 0;
  return out;
}

} // namespace tropilla::host
