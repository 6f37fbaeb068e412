// Repacks rows of file blocks into panels of sixteen, and reads single rows back.
//
// Packing is bound by memory: values move as 32-bit words of four columns, which every plane keeps together.
#include "kernels/packed.hpp"

#include "kernels/block_formats.hpp"
#include "kernels/packed_format.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>

#include <array>
#include <cassert>
#include <cstring>
#include <limits>

namespace tropilla {
namespace {

using namespace formats;
using namespace packed;

constexpr std::size_t panel_alignment = 64;

/// A block's values as the planes hold them, in words of four columns: column 4 g in the low byte of word g.
using words = std::array<std::uint32_t, block_quads>;

template <class Block>
Block read_block(const std::byte* at) noexcept {
  Block b;
  std::memcpy(&b, at, sizeof(b));
  return b;
}

std::uint32_t word(const std::uint8_t* bytes) noexcept {
  std::uint32_t w = 0;
  std::memcpy(&w, bytes, sizeof(w));
  return w;
}

constexpr std::uint32_t every_byte(std::uint32_t byte) noexcept {
  return byte * 0x01010101U;
}

/// The fifth bits of four values, bits 4 g to 4 g + 3 of `qh`, as bit 4 of four bytes.
std::uint32_t fifth_bits(std::uint32_t qh, std::size_t g) noexcept {
  const std::uint32_t four = (qh >> (4 * g)) & 15U;
  return ((four * 0x00204081U) & every_byte(1)) << 4; // copies at 7-bit steps put bit i at bit 8 i
}

words nibbles_of(const std::uint8_t* qs) noexcept {
  words w;
  for (std::size_t j = 0; j < 4; ++j) {
    const std::uint32_t both = word(qs + 4 * j);
    w[j] = both & every_byte(15);
    w[j + 4] = (both >> 4) & every_byte(15);
  }
  return w;
}

template <class Block>
words values_of(const Block& b, std::size_t block) noexcept {
  words w{};
  if constexpr (std::is_same_v<Block, block_q4_0> || std::is_same_v<Block, block_q4_1> ||
                std::is_same_v<Block, block_iq4_nl>) {
    w = nibbles_of(b.qs);
  } else if constexpr (std::is_same_v<Block, block_q5_0> || std::is_same_v<Block, block_q5_1>) {
    w = nibbles_of(b.qs);
    for (std::size_t g = 0; g < block_quads; ++g)
      w[g] |= fifth_bits(word(b.qh), g);
  } else if constexpr (std::is_same_v<Block, block_q8_0>) {
    for (std::size_t g = 0; g < block_quads; ++g)
      w[g] = word(reinterpret_cast<const std::uint8_t*>(b.qs) + 4 * g) ^ every_byte(128); // q + 128
  } else if constexpr (std::is_same_v<Block, block_q2_k> || std::is_same_v<Block, block_q3_k>) {
    for (std::size_t g = 0; g < block_quads; ++g) {
      w[g] = (word(b.qs + block / 4 * 32 + 4 * g) >> (block % 4 * 2)) & every_byte(3);
      if constexpr (std::is_same_v<Block, block_q3_k>)
        w[g] |= ((word(b.hmask + 4 * g) >> block) & every_byte(1)) << 2;
    }
  } else if constexpr (std::is_same_v<Block, block_q4_k> || std::is_same_v<Block, block_q5_k>) {
    for (std::size_t g = 0; g < block_quads; ++g) {
      w[g] = (word(b.qs + block / 2 * 32 + 4 * g) >> (block % 2 * 4)) & every_byte(15);
      if constexpr (std::is_same_v<Block, block_q5_k>)
        w[g] |= ((word(b.qh + 4 * g) >> block) & every_byte(1)) << 4;
    }
  } else {
    static_assert(std::is_same_v<Block, block_q6_k>);
    const std::size_t half = block / 4;
    for (std::size_t g = 0; g < block_quads; ++g) {
      const std::uint32_t low = word(b.ql + half * 64 + block % 2 * 32 + 4 * g) >> (block % 4 / 2 * 4);
      const std::uint32_t high = word(b.qh + half * 32 + 4 * g) >> (block % 4 * 2);
      w[g] = (low & every_byte(15)) | ((high & every_byte(3)) << 4);
    }
  }
  return w;
}

/// Spreads a row's values over the planes of a block of sixteen rows.
template <tensor_type T>
void store_values(const words& w, std::size_t row, std::byte* block) noexcept {
  constexpr format f = format_of(T);
  const auto store = [&](std::size_t offset, std::uint32_t value) {
    std::memcpy(block + offset + row * quad_columns, &value, sizeof(value));
  };
  if constexpr (f.bytes)
    for (std::size_t g = 0; g < block_quads; ++g)
      store(g * vector_bytes, w[g]);
  if constexpr (f.nibbles)
    for (std::size_t j = 0; j < 4; ++j)
      store(j * vector_bytes, (w[j] & every_byte(15)) | ((w[j + 4] & every_byte(15)) << 4));
  if constexpr (f.twos)
    for (std::size_t v = 0; v < 2; ++v) {
      std::uint32_t plane = 0;
      for (std::size_t j = 0; j < 4; ++j)
        plane |= ((w[4 * v + j] >> (f.nibbles ? 4 : 0)) & every_byte(3)) << (2 * j);
      store(f.twos_offset() + v * vector_bytes, plane);
    }
  if constexpr (f.ones) {
    std::uint32_t plane = 0;
    for (std::size_t g = 0; g < block_quads; ++g)
      plane |= ((w[g] >> (f.nibbles ? 4 : 2)) & every_byte(1)) << g;
    store(f.ones_offset(), plane);
  }
}

/// Writes entry `row` of the header's arrays.
struct header_writer {
  std::byte* unit;
  std::size_t row;

  void half(std::size_t array, half_bits bits) const noexcept {
    std::memcpy(unit + array * halves_bytes + row * sizeof(bits), &bits, sizeof(bits));
  }
  /// Byte `j` of the row, in the arrays that follow `halves` arrays of halves.
  void byte(std::size_t halves, std::size_t j, unsigned value) const noexcept {
    unit[halves * halves_bytes + j * panel_rows + row] = static_cast<std::byte>(value);
  }
};

template <class Block>
void store_scales(const Block& b, const header_writer& out) noexcept {
  out.half(0, b.d);
  if constexpr (std::is_same_v<Block, block_q4_1> || std::is_same_v<Block, block_q5_1>) {
    out.half(1, b.m);
  } else if constexpr (std::is_same_v<Block, block_q2_k>) {
    out.half(1, b.dmin);
    for (std::size_t j = 0; j < 16; ++j)
      out.byte(2, j, b.scales[j]);
  } else if constexpr (std::is_same_v<Block, block_q3_k>) {
    for (std::size_t j = 0; j < 8; ++j)
      out.byte(1, j,
               (unpack_q3_k_scale(b.scales, 2 * j) & 15U) | ((unpack_q3_k_scale(b.scales, 2 * j + 1) & 15U) << 4));
    for (std::size_t j = 0; j < 4; ++j) {
      unsigned high = 0;
      for (std::size_t i = 0; i < 4; ++i)
        high |= static_cast<unsigned>(unpack_q3_k_scale(b.scales, 4 * j + i) >> 4) << (2 * i);
      out.byte(1, 8 + j, high);
    }
  } else if constexpr (std::is_same_v<Block, block_q4_k> || std::is_same_v<Block, block_q5_k>) {
    out.half(1, b.dmin);
    for (std::size_t j = 0; j < 8; ++j) {
      const scale_min six = unpack_scale_min(b.scales, j);
      out.byte(2, j, six.scale | (static_cast<unsigned>(six.min >> 4) << 6));
    }
    for (std::size_t j = 0; j < 4; ++j)
      out.byte(2, 8 + j,
               (unpack_scale_min(b.scales, 2 * j).min & 15U) |
                   ((unpack_scale_min(b.scales, 2 * j + 1).min & 15U) << 4));
  } else if constexpr (std::is_same_v<Block, block_q6_k>) {
    for (std::size_t j = 0; j < 16; ++j)
      out.byte(1, j, static_cast<std::uint8_t>(b.scales[j]));
  }
}

template <tensor_type T, class Block>
void pack_panel(std::size_t columns, std::size_t rows, const std::byte* file, std::byte* panel) noexcept {
  constexpr format f = format_of(T);
  static_assert(f.unit_bytes() == panel_rows * sizeof(Block), "packing must not cost memory");
  const std::size_t units = columns / f.unit_columns();
  const std::size_t file_row = units * sizeof(Block);
  for (std::size_t u = 0; u < units; ++u) {
    std::byte* unit = panel + u * f.unit_bytes();
    for (std::size_t row = 0; row < rows; ++row) {
      const auto b = read_block<Block>(file + row * file_row + u * sizeof(Block));
      store_scales(b, {unit, row});
      for (std::size_t block = 0; block < f.unit_blocks; ++block)
        store_values<T>(values_of(b, block), row, unit + f.header_bytes + block * f.block_bytes());
    }
  }
}

template <class Value>
void interleave(std::size_t columns, std::size_t rows, const std::byte* file, std::byte* panel) noexcept {
  // By blocks of columns that stay in the first-level cache while sixteen rows visit them.
  constexpr std::size_t step = 64;
  for (std::size_t first = 0; first < columns; first += step)
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t k = first; k < columns && k < first + step; ++k)
        std::memcpy(panel + (k * panel_rows + row) * sizeof(Value), file + (row * columns + k) * sizeof(Value),
                    sizeof(Value));
}

void pack_any(tensor_type type, std::size_t columns, std::size_t rows, const std::byte* file,
              std::byte* panel) noexcept {
  using enum tensor_type;
  switch (type) {
  case f32:
    return interleave<std::uint32_t>(columns, rows, file, panel);
  case f16:
  case bf16:
    return interleave<std::uint16_t>(columns, rows, file, panel);
  case q4_0:
    return pack_panel<q4_0, block_q4_0>(columns, rows, file, panel);
  case q4_1:
    return pack_panel<q4_1, block_q4_1>(columns, rows, file, panel);
  case q5_0:
    return pack_panel<q5_0, block_q5_0>(columns, rows, file, panel);
  case q5_1:
    return pack_panel<q5_1, block_q5_1>(columns, rows, file, panel);
  case q8_0:
    return pack_panel<q8_0, block_q8_0>(columns, rows, file, panel);
  case q2_k:
    return pack_panel<q2_k, block_q2_k>(columns, rows, file, panel);
  case q3_k:
    return pack_panel<q3_k, block_q3_k>(columns, rows, file, panel);
  case q4_k:
    return pack_panel<q4_k, block_q4_k>(columns, rows, file, panel);
  case q5_k:
    return pack_panel<q5_k, block_q5_k>(columns, rows, file, panel);
  case q6_k:
    return pack_panel<q6_k, block_q6_k>(columns, rows, file, panel);
  case iq4_nl:
    return pack_panel<iq4_nl, block_iq4_nl>(columns, rows, file, panel);
  }
}

template <tensor_type T>
void unpack_quantised(const std::byte* panel, std::size_t row, std::span<float> out) noexcept {
  constexpr format f = format_of(T);
  for (std::size_t k = 0; k < out.size(); k += f.scale_columns) {
    const std::byte* unit = panel + k / f.unit_columns() * f.unit_bytes();
    const std::size_t in_unit = k % f.unit_columns();
    const std::byte* block = unit + f.header_bytes + in_unit / block_columns * f.block_bytes();
    const scale_pair s = scale_at<T>(unit, row, in_unit / f.scale_columns);
    for (std::size_t i = 0; i < f.scale_columns; ++i) {
      const int q = value_at<T>(block, row, in_unit % block_columns + i);
      if constexpr (f.minimum)
        out[k + i] = s.scale * static_cast<float>(q) + s.minimum;
      else
        out[k + i] = s.scale * static_cast<float>(q - f.zero_point);
    }
  }
}

/// Column `row` of `[columns, 16]`.
template <class Value, class Widen>
void unpack_column(const std::byte* panel, std::size_t row, std::span<float> out, Widen widen) noexcept {
  for (std::size_t k = 0; k < out.size(); ++k) {
    Value v;
    std::memcpy(&v, panel + (k * panel_rows + row) * sizeof(v), sizeof(v));
    out[k] = widen(v);
  }
}

} // namespace

packed_layout make_packed_layout(tensor_type type, std::size_t rows, std::size_t columns) {
  const tensor_type_info& t = info(type);
  if (columns % t.block_values != 0)
    throw error(errc::unsupported, fmt::format("a {} matrix needs a multiple of {} columns, but one has {}; convert it "
                                               "to a type with smaller blocks",
                                               t.name, t.block_values, columns));
  constexpr std::size_t max_size = std::numeric_limits<std::size_t>::max();
  const std::size_t blocks = columns / t.block_values;
  packed_layout layout{type, rows, columns, 0};
  const std::size_t panels = divide_up(rows, panel_rows);
  const bool fits = blocks <= (max_size - panel_alignment) / (panel_rows * t.block_bytes);
  if (fits) {
    const std::size_t bytes = blocks * panel_rows * t.block_bytes;
    layout.panel_bytes = round_up(bytes, panel_alignment);
  }
  if (!fits || rows > max_size - panel_rows || (panels != 0 && layout.panel_bytes > max_size / panels))
    throw error(errc::unsupported,
                fmt::format("a {} matrix of {} by {} is larger than the address space", t.name, rows, columns));
  return layout;
}

void pack_panels(const packed_layout& layout, std::size_t first, std::size_t last, std::span<const std::byte> rows,
                 std::byte* packed) noexcept {
  const std::size_t file_row = row_bytes(layout.type, layout.columns);
  const std::byte* file = rows.data();
  for (std::size_t g = first; g < last; ++g) {
    const std::size_t begin = g * panel_rows;
    const std::size_t count = std::min(panel_rows, layout.rows - begin);
    std::byte* panel = packed + g * layout.panel_bytes;
    assert(static_cast<std::size_t>(file - rows.data()) + count * file_row <= rows.size());
    if (count < panel_rows)
      std::memset(panel, 0, layout.panel_bytes);
    pack_any(layout.type, layout.columns, count, file, panel);
    const std::size_t used = panel_rows * file_row;
    std::memset(panel + used, 0, layout.panel_bytes - used);
    file += count * file_row;
  }
}

void unpack_row(const packed_layout& layout, const std::byte* packed, std::size_t row, std::span<float> out) noexcept {
  assert(row < layout.rows && out.size() == layout.columns);
  const std::byte* panel = packed + row / panel_rows * layout.panel_bytes;
  const std::size_t lane = row % panel_rows;
  switch (layout.type) {
  case tensor_type::f32:
    return unpack_column<float>(panel, lane, out, [](float v) { return v; });
  case tensor_type::f16:
    return unpack_column<std::uint16_t>(panel, lane, out, half_to_float);
  case tensor_type::bf16:
    return unpack_column<std::uint16_t>(panel, lane, out, bf16_to_float);
  default:
    return with_quantised(layout.type, [&]<tensor_type T>() { unpack_quantised<T>(panel, lane, out); });
  }
}

} // namespace tropilla
