// The formulas of linear.hpp in plain C++: the reference for the other instruction sets, and the kernels of machines
// without them.
#include "kernels/host/linear_impl.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tropilla::host::scalar {
namespace {

using namespace packed;

/// An unpacked block.
struct tile_block {
  std::uint8_t values[panel_rows][block_columns];
  float scales[2][panel_rows];
  float minimums[2][panel_rows];
};
static_assert(sizeof(tile_block) % 64 == 0);

template <tensor_type T>
void unpack(const std::byte* panel, std::size_t first, std::size_t blocks, std::byte* tile) {
  constexpr format f = format_of(T);
  for (std::size_t b = first; b < first + blocks; ++b, tile += sizeof(tile_block)) {
    const std::byte* unit = panel + b / f.unit_blocks * f.unit_bytes();
    const std::size_t in_unit = b % f.unit_blocks;
    const std::byte* block = unit + f.header_bytes + in_unit * f.block_bytes();
    tile_block out;
    for (std::size_t row = 0; row < panel_rows; ++row) {
      for (std::size_t k = 0; k < block_columns; ++k)
        out.values[row][k] = static_cast<std::uint8_t>(value_at<T>(block, row, k));
      for (std::size_t s = 0; s < f.block_scales(); ++s) {
        const scale_pair pair = scale_at<T>(unit, row, in_unit * f.block_scales() + s);
        out.scales[s][row] = pair.scale;
        out.minimums[s][row] = pair.minimum;
      }
    }
    std::memcpy(tile, &out, sizeof(out));
  }
}

template <tensor_type T>
float add_block(const tile_block& w, std::size_t row, const quantised_rows& x, float acc) {
  constexpr format f = format_of(T);
  for (std::size_t s = 0; s < f.block_scales(); ++s) {
    int dot = f.zero_point * input_minus<values_of(T)>(x)[s];
    for (std::size_t k = s * f.scale_columns; k < (s + 1) * f.scale_columns; ++k)
      dot += static_cast<int>(w.values[row][k]) * static_cast<int>(x.q[k]);
    acc = std::fma(w.scales[s][row], static_cast<float>(dot) * *x.scale, acc);
    if constexpr (f.minimum)
      acc = std::fma(w.minimums[s][row], input_sums<values_of(T)>(x)[s], acc);
  }
  return acc;
}

template <tensor_type T>
void multiply(const std::byte* tile, std::size_t blocks, const quantised_rows& x, std::size_t vectors, float* sums) {
  for (std::size_t b = 0; b < blocks; ++b) {
    const auto& w = *reinterpret_cast<const tile_block*>(tile + b * sizeof(tile_block));
    for (std::size_t v = 0; v < vectors; ++v) {
      const quantised_rows at = x.from(v, b);
      for (std::size_t row = 0; row < panel_rows; ++row)
        sums[v * panel_rows + row] = add_block<T>(w, row, at, sums[v * panel_rows + row]);
    }
  }
}

template <tensor_type T>
void vector(const std::byte* panel, std::size_t columns, const quantised_rows& x, float* sums) {
  constexpr format f = format_of(T);
  alignas(64) std::byte tile[f.unit_blocks * sizeof(tile_block)];
  std::fill_n(sums, panel_rows, 0.0F);
  for (std::size_t b = 0; b < columns / block_columns; b += f.unit_blocks) {
    unpack<T>(panel, b, f.unit_blocks, tile);
    multiply<T>(tile, f.unit_blocks, x.from(0, b), 1, sums);
  }
}

template <tensor_type T>
void expand(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  constexpr format f = format_of(T);
  for (std::size_t k = first; k < first + columns; ++k) {
    const std::byte* unit = panel + k / f.unit_columns() * f.unit_bytes();
    const std::size_t in_unit = k % f.unit_columns();
    const std::byte* block = unit + f.header_bytes + in_unit / block_columns * f.block_bytes();
    for (std::size_t row = 0; row < panel_rows; ++row) {
      const scale_pair s = scale_at<T>(unit, row, in_unit / f.scale_columns);
      const int q = value_at<T>(block, row, in_unit % block_columns);
      *tile++ =
          f.minimum ? s.scale * static_cast<float>(q) + s.minimum : s.scale * static_cast<float>(q - f.zero_point);
    }
  }
}

/// One value of a float type.
template <tensor_type T>
float float_at(const std::byte* panel, std::size_t index) {
  if constexpr (T == tensor_type::f32) {
    float value = 0;
    std::memcpy(&value, panel + index * sizeof(value), sizeof(value));
    return value;
  } else {
    std::uint16_t bits = 0;
    std::memcpy(&bits, panel + index * sizeof(bits), sizeof(bits));
    return T == tensor_type::f16 ? half_to_float(bits) : bf16_to_float(bits);
  }
}

template <tensor_type T>
void widen(const std::byte* panel, std::size_t first, std::size_t columns, float* tile) {
  for (std::size_t i = 0; i < columns * panel_rows; ++i)
    tile[i] = float_at<T>(panel, first * panel_rows + i);
}

template <tensor_type T>
void vector_full(const std::byte* panel, std::size_t columns, const float* x, float* sums) {
  std::fill_n(sums, panel_rows, 0.0F);
  for (std::size_t k = 0; k < columns; ++k)
    for (std::size_t row = 0; row < panel_rows; ++row)
      sums[row] = std::fma(float_at<T>(panel, k * panel_rows + row), x[k], sums[row]);
}

void multiply_full(const float* tile, std::size_t columns, const float* x, std::size_t stride, std::size_t vectors,
                   float* sums) {
  for (std::size_t v = 0; v < vectors; ++v, sums += panel_rows)
    for (std::size_t k = 0; k < columns; ++k)
      for (std::size_t row = 0; row < panel_rows; ++row)
        sums[row] = std::fma(tile[k * panel_rows + row], x[v * stride + k], sums[row]);
}

template <tensor_type T>
constexpr linear_type kernels() {
  if constexpr (is_float(T))
    return {.vector_full = vector_full<T>, .expand = widen<T>};
  else
    return {.vector = vector<T>,
            .unpack = unpack<T>,
            .multiply = multiply<T>,
            .tile_block_bytes = sizeof(tile_block),
            .expand = expand<T>};
}

} // namespace

const linear_table& linear_kernels() noexcept {
  static constexpr linear_table table =
      make_linear_table("scalar", multiply_full, []<tensor_type T>() { return kernels<T>(); });
  return table;
}

} // namespace tropilla::host::scalar
