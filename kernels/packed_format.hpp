/// Defines a packed panel in memory, for packing, unpacking and the kernels. Not for users of `packed.hpp`.
///
/// A panel of a quantised matrix is a sequence of units, one per block of the file (32 columns, or 256 of K types).
/// A unit begins with the scales of its sixteen rows and goes on with 1 or 8 blocks of 32 columns. In a block, value
/// k = 4 g + i of row r belongs to quad g (0 to 7) and to byte 4 r + i of a 64-byte vector. Its bits, unsigned with a
/// zero point, are spread over the planes that the type has, in this order:
///   nibbles  4 vectors: the low nibble of vector g % 4 for g < 4, the high one for g >= 4
///   twos     2 vectors: bits 2 (g % 4) and up of vector g / 4
///   ones     1 vector: bit g
///   bytes    8 vectors: vector g
/// Unpacking a quad is thus one shift and one mask for sixteen rows, in every instruction set. IQ4_NL's nibbles are
/// then looked up in `codebook`.
///
/// Scales of a unit (arrays over the sixteen rows; f16 as in the file, so they are exact):
///   Q4_0 Q5_0 Q8_0 IQ4_NL  d
///   Q4_1 Q5_1       d, m
///   Q2_K            d, dmin, 16 bytes per row: scale in the low nibble, min in the high one
///   Q3_K            d, 8 bytes: low nibbles of scales 2 j and 2 j + 1; 4 bytes: high two bits of scales 4 j + i at 2 i
///   Q4_K Q5_K       d, dmin, 8 bytes: scale and, above it, the high two bits of min; 4 bytes: low nibbles of mins
///                   2 j and 2 j + 1
///   Q6_K            d, 16 bytes: signed scale
/// F32, F16 and BF16 panels are `[columns, 16]` in the file's type.
#pragma once

#include "kernels/block_formats.hpp"
#include "kernels/packed.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tropilla::packed {

/// Columns of a block.
inline constexpr std::size_t block_columns = 32;
/// Consecutive columns of a row that lie in one 32-bit lane.
inline constexpr std::size_t quad_columns = 4;
inline constexpr std::size_t block_quads = block_columns / quad_columns;
/// Bytes of one quad of sixteen rows.
inline constexpr std::size_t vector_bytes = panel_rows * quad_columns;
/// Bytes of one half-precision scale per row.
inline constexpr std::size_t halves_bytes = panel_rows * sizeof(std::uint16_t);

/// The parts of a quantised type's panels.
struct format {
  bool nibbles = false;
  bool twos = false;
  bool ones = false;
  bool bytes = false;
  bool codebook = false;          ///< a nibble is an index of `packed::codebook`, whose value counts
  bool minimum = false;           ///< x = scale q + minimum; else x = scale (q - zero_point)
  int zero_point = 0;             ///< a power of two, or 0 where there is a minimum
  std::size_t unit_blocks = 1;    ///< blocks of 32 columns in a unit
  std::size_t scale_columns = 32; ///< columns that share a scale: 16 or 32
  std::size_t header_bytes = 0;

  [[nodiscard]] constexpr std::size_t block_bytes() const noexcept {
    return vector_bytes * ((nibbles ? 4U : 0U) + (twos ? 2U : 0U) + (ones ? 1U : 0U) + (bytes ? 8U : 0U));
  }
  [[nodiscard]] constexpr std::size_t twos_offset() const noexcept { return nibbles ? 4 * vector_bytes : 0; }
  [[nodiscard]] constexpr std::size_t ones_offset() const noexcept {
    return twos_offset() + (twos ? 2 * vector_bytes : 0);
  }
  [[nodiscard]] constexpr std::size_t unit_bytes() const noexcept { return header_bytes + unit_blocks * block_bytes(); }
  [[nodiscard]] constexpr std::size_t unit_columns() const noexcept { return unit_blocks * block_columns; }
  /// Scales of a block: 1 or 2.
  [[nodiscard]] constexpr std::size_t block_scales() const noexcept { return block_columns / scale_columns; }
  /// The greatest value that `value_at` gives.
  [[nodiscard]] constexpr int top() const noexcept {
    return bytes || codebook ? 255
                             : (nibbles ? 15 : 0) + (twos ? (nibbles ? 48 : 3) : 0) + (ones ? (nibbles ? 16 : 4) : 0);
  }
};

/// IQ4_NL's values, unsigned as Q8_0's are: the products of both are the same but for this table.
inline constexpr auto codebook = [] {
  std::array<std::uint8_t, formats::iq4_nl_values.size()> raised{};
  for (std::size_t i = 0; i < raised.size(); ++i)
    raised[i] = static_cast<std::uint8_t>(formats::iq4_nl_values[i] + 128);
  return raised;
}();

[[nodiscard]] constexpr bool is_float(tensor_type type) noexcept {
  return type == tensor_type::f32 || type == tensor_type::f16 || type == tensor_type::bf16;
}

/// @pre not `is_float(type)`.
[[nodiscard]] constexpr format format_of(tensor_type type) noexcept {
  constexpr std::size_t h = halves_bytes;
  constexpr std::size_t b = panel_rows;
  switch (type) {
  case tensor_type::q4_0:
    return {.nibbles = true, .zero_point = 8, .header_bytes = h};
  case tensor_type::q4_1:
    return {.nibbles = true, .minimum = true, .header_bytes = 2 * h};
  case tensor_type::q5_0:
    return {.nibbles = true, .ones = true, .zero_point = 16, .header_bytes = h};
  case tensor_type::q5_1:
    return {.nibbles = true, .ones = true, .minimum = true, .header_bytes = 2 * h};
  case tensor_type::q8_0:
    return {.bytes = true, .zero_point = 128, .header_bytes = h};
  case tensor_type::iq4_nl:
    return {.nibbles = true, .codebook = true, .zero_point = 128, .header_bytes = h};
  case tensor_type::q2_k:
    return {.twos = true, .minimum = true, .unit_blocks = 8, .scale_columns = 16, .header_bytes = 2 * h + 16 * b};
  case tensor_type::q3_k:
    return {
        .twos = true, .ones = true, .zero_point = 4, .unit_blocks = 8, .scale_columns = 16, .header_bytes = h + 12 * b};
  case tensor_type::q4_k:
    return {.nibbles = true, .minimum = true, .unit_blocks = 8, .header_bytes = 2 * h + 12 * b};
  case tensor_type::q5_k:
    return {.nibbles = true, .ones = true, .minimum = true, .unit_blocks = 8, .header_bytes = 2 * h + 12 * b};
  case tensor_type::q6_k:
    return {.nibbles = true,
            .twos = true,
            .zero_point = 32,
            .unit_blocks = 8,
            .scale_columns = 16,
            .header_bytes = h + 16 * b};
  default:
    return {};
  }
}

/// The unsigned value of column `k` (0 to 31) of row `row` of a block.
template <tensor_type T>
[[nodiscard]] inline int value_at(const std::byte* block, std::size_t row, std::size_t k) noexcept {
  constexpr format f = format_of(T);
  const std::size_t g = k / quad_columns;
  const std::size_t at = row * quad_columns + k % quad_columns;
  const auto byte = [&](std::size_t offset) { return static_cast<unsigned>(block[offset + at]); };
  unsigned q = 0;
  if constexpr (f.bytes)
    q = byte(g * vector_bytes);
  if constexpr (f.nibbles)
    q = (byte(g % 4 * vector_bytes) >> (g / 4 * 4)) & 15U;
  if constexpr (f.twos)
    q |= ((byte(f.twos_offset() + g / 4 * vector_bytes) >> (g % 4 * 2)) & 3U) << (f.nibbles ? 4 : 0);
  if constexpr (f.ones)
    q |= ((byte(f.ones_offset()) >> g) & 1U) << (f.nibbles ? 4 : 2);
  if constexpr (f.codebook)
    q = codebook[q];
  return static_cast<int>(q);
}

/// Reads entry `row` of an array of halves.
[[nodiscard]] inline float half_at(const std::byte* halves, std::size_t row) noexcept {
  std::uint16_t bits = 0;
  std::memcpy(&bits, halves + row * sizeof(bits), sizeof(bits));
  return half_to_float(bits);
}

/// Scale and minimum of one row and sub-block: x = scale q + minimum, or scale (q - zero_point).
struct scale_pair {
  float scale = 0;
  float minimum = 0;
};

/// `s` counts the scales of the unit (0 where it has one per row).
template <tensor_type T>
[[nodiscard]] inline scale_pair scale_at(const std::byte* unit, std::size_t row, std::size_t s) noexcept {
  using enum tensor_type;
  const float d = half_at(unit, row);
  const auto byte = [&](std::size_t header, std::size_t j) {
    return static_cast<unsigned>(unit[header + j * panel_rows + row]);
  };
  if constexpr (T == q4_1 || T == q5_1) {
    return {d, half_at(unit + halves_bytes, row)};
  } else if constexpr (T == q2_k) {
    const unsigned both = byte(2 * halves_bytes, s);
    const float dmin = half_at(unit + halves_bytes, row);
    return {d * static_cast<float>(both & 15U), -(dmin * static_cast<float>(both >> 4))};
  } else if constexpr (T == q3_k) {
    const unsigned low = (byte(halves_bytes, s / 2) >> (s % 2 * 4)) & 15U;
    const unsigned high = (byte(halves_bytes, 8 + s / 4) >> (s % 4 * 2)) & 3U;
    return {d * static_cast<float>(static_cast<int>(low | (high << 4)) - 32), 0};
  } else if constexpr (T == q4_k || T == q5_k) {
    const unsigned a = byte(2 * halves_bytes, s);
    const unsigned low = (byte(2 * halves_bytes, 8 + s / 2) >> (s % 2 * 4)) & 15U;
    const float dmin = half_at(unit + halves_bytes, row);
    return {d * static_cast<float>(a & 63U), -(dmin * static_cast<float>(low | ((a >> 6) << 4)))};
  } else if constexpr (T == q6_k) {
    return {d * static_cast<float>(static_cast<std::int8_t>(byte(halves_bytes, s))), 0};
  } else {
    return {d, 0};
  }
}

/// Calls `f.template operator()<T>()` with the quantised type. @pre not `is_float(type)`.
template <class F>
decltype(auto) with_quantised(tensor_type type, F&& f) {
  using enum tensor_type;
  switch (type) {
  case q4_1:
    return f.template operator()<q4_1>();
  case q5_0:
    return f.template operator()<q5_0>();
  case q5_1:
    return f.template operator()<q5_1>();
  case q8_0:
    return f.template operator()<q8_0>();
  case q2_k:
    return f.template operator()<q2_k>();
  case q3_k:
    return f.template operator()<q3_k>();
  case q4_k:
    return f.template operator()<q4_k>();
  case q5_k:
    return f.template operator()<q5_k>();
  case q6_k:
    return f.template operator()<q6_k>();
  case iq4_nl:
    return f.template operator()<iq4_nl>();
  default:
    return f.template operator()<q4_0>();
  }
}

} // namespace tropilla::packed
