// Lays out activation buffers.
#include "kernels/activation_format.hpp"

#include "memory/rounding.hpp"

namespace tropilla {
namespace {

constexpr std::size_t alignment = 64;

/// Lays the arrays out one after another from `base` (null to measure); gives the bytes.
std::size_t lay_out(std::byte* base, activation_kind kind, std::size_t rows, std::size_t width,
                    activation_view& out) noexcept {
  const bool full = kind == activation_kind::full || kind == activation_kind::both;
  std::size_t used = 0;
  const auto array = [&]<class T>(T*& where, std::size_t count) {
    where = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += round_up(count * sizeof(T), alignment);
  };
  const std::size_t padded = round_up(width, activation_padding);
  if (kind != activation_kind::full) {
    out.int8_rows = kind == activation_kind::residual_int8 ? 2 : 1;
    const std::size_t values = rows * out.int8_rows * padded;
    out.quantised.padded = padded;
    array(out.quantised.q, values);
    array(out.quantised.scale, values / 32);
    array(out.quantised.sum32, values / 32);
    array(out.quantised.sum16, values / 16);
    array(out.quantised.minus32, values / 32);
    array(out.quantised.minus16, values / 16);
  }
  if (full) {
    out.full_stride = round_up(width, alignment / sizeof(float));
    array(out.full, rows * out.full_stride);
  }
  return used;
}

} // namespace

activation_arrays arrays_of(const activation_view& view) noexcept {
  const auto& q = view.quantised;
  const auto array = [](auto* data, std::size_t row_values, std::size_t values) {
    constexpr std::size_t bytes = sizeof(*data);
    return activation_array{reinterpret_cast<std::byte*>(data), row_values / values * bytes,
                            activation_padding / values * bytes};
  };
  return {array(q.q, q.padded, 1),
          array(q.scale, q.padded, 32),
          array(q.sum32, q.padded, 32),
          array(q.sum16, q.padded, 16),
          array(q.minus32, q.padded, 32),
          array(q.minus16, q.padded, 16),
          array(view.full, view.full_stride, 1)};
}

std::size_t activation_buffer_bytes(activation_kind kind, std::size_t rows, std::size_t width) noexcept {
  activation_view view;
  return lay_out(nullptr, kind, rows, width, view);
}

activation_view view_of(const activation& a, bool precise) noexcept {
  activation_view view;
  lay_out(a.data, precise ? activation_kind::full : a.kind, a.rows, a.width, view);
  return view;
}

} // namespace tropilla
