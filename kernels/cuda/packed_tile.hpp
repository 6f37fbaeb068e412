/// Reads packed panels (`kernels/packed_format.hpp`) into a thread's registers, a few neighbouring rows at a time.
///
/// In a block of 32 columns and 16 rows, quad g has columns 4 g to 4 g + 3; a row's four are one word.
#pragma once

#include "kernels/cuda/cuda_compat.hpp"
#include "kernels/packed_format.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

/// A word of each of `R` neighbouring rows.
template <unsigned R>
struct row_words {
  unsigned row[R];
};

template <unsigned R>
__device__ inline row_words<R> load_rows(const std::byte* p) {
  if constexpr (R == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    return {{v.x, v.y}};
  } else {
    return {{*reinterpret_cast<const unsigned*>(p)}};
  }
}

/// Whether a type's values are made signed bytes, which takes their zero point off for nothing: those of bytes by
/// flipping their top bit, those of a codebook by its table.
template <tensor_type T>
inline constexpr bool signed_values = packed::format_of(T).bytes || packed::format_of(T).codebook;

/// The zero point that is left to take off, as `packed::format` defines it.
template <tensor_type T>
inline constexpr int zero_point = signed_values<T> ? 0 : packed::format_of(T).zero_point;

/// Values 4 i to 4 i + 3 of the codebook, signed.
constexpr unsigned codebook_word(unsigned i) {
  unsigned word = 0;
  for (unsigned j = 0; j < 4; ++j)
    word |= static_cast<unsigned>(static_cast<std::uint8_t>(formats::iq4_nl_values[4 * i + j])) << (8 * j);
  return word;
}

/// The codebook's value of each byte, which is an index: looked up in both halves of the table, of which bit 3 chooses.
__device__ inline unsigned looked_up(unsigned indices) {
  constexpr unsigned values[4] = {codebook_word(0), codebook_word(1), codebook_word(2), codebook_word(3)};
  const unsigned selectors = __byte_perm(indices | (indices >> 4), 0, 0x4420); // four nibbles
  const unsigned in_half = selectors & 0x7777U;
  const unsigned low = __byte_perm(values[0], values[1], in_half), high = __byte_perm(values[2], values[3], in_half);
  return __byte_perm(low, high, ((selectors & 0x8888U) >> 1) | 0x3210U);
}

/// Quad `g` of `R` rows from `first` on, signed bytes.
template <tensor_type T, unsigned R>
__device__ inline row_words<R> quad_rows(const std::byte* block, unsigned g, unsigned first) {
  constexpr packed::format f = packed::format_of(T);
  const auto plane = [&](std::size_t offset) { return load_rows<R>(block + offset + first * packed::quad_columns); };
  row_words<R> out{};
  if constexpr (f.bytes) {
    const auto bytes = plane(g * packed::vector_bytes);
    for (unsigned i = 0; i < R; ++i)
      out.row[i] = bytes.row[i] ^ 0x80808080U;
  }
  if constexpr (f.nibbles) {
    const auto nibbles = plane(g % 4 * packed::vector_bytes);
    for (unsigned i = 0; i < R; ++i)
      out.row[i] = (nibbles.row[i] >> (g / 4 * 4)) & 0x0F0F0F0FU;
  }
  if constexpr (f.twos) {
    const auto twos = plane(f.twos_offset() + g / 4 * packed::vector_bytes);
    for (unsigned i = 0; i < R; ++i)
      out.row[i] |= ((twos.row[i] >> (g % 4 * 2)) & 0x03030303U) << (f.nibbles ? 4 : 0);
  }
  if constexpr (f.ones) {
    const auto ones = plane(f.ones_offset());
    for (unsigned i = 0; i < R; ++i)
      out.row[i] |= ((ones.row[i] >> g) & 0x01010101U) << (f.nibbles ? 4 : 2);
  }
  if constexpr (f.codebook)
    for (unsigned i = 0; i < R; ++i)
      out.row[i] = looked_up(out.row[i]);
  return out;
}

template <unsigned R>
struct row_scales {
  float scale[R];
  float minimum[R];
};

/// One byte of each of `R` rows from `p` on, as a word.
template <unsigned R>
__device__ inline unsigned load_bytes(const std::byte* p) {
  if constexpr (R == 2)
    return *reinterpret_cast<const std::uint16_t*>(p);
  else
    return *reinterpret_cast<const std::uint8_t*>(p);
}
__device__ inline unsigned byte_of(unsigned word, unsigned i) {
  return (word >> (8 * i)) & 255U;
}
template <unsigned R>
__device__ inline void load_halves(const std::byte* p, float (&out)[R]) {
  if constexpr (R == 2) {
    const unsigned both = *reinterpret_cast<const unsigned*>(p);
    out[0] = to_float(static_cast<std::uint16_t>(both));
    out[1] = to_float(static_cast<std::uint16_t>(both >> 16));
  } else {
    out[0] = to_float(*reinterpret_cast<const std::uint16_t*>(p));
  }
}

/// Scale and minimum `s` of a unit for `R` rows from `first` on: `packed::scale_at` of several rows.
template <tensor_type T, unsigned R>
__device__ inline row_scales<R> unit_scales(const std::byte* unit, unsigned first, unsigned s) {
  using enum tensor_type;
  constexpr std::size_t h = packed::halves_bytes;
  row_scales<R> out{};
  float d[R];
  load_halves<R>(unit + first * sizeof(std::uint16_t), d);
  const auto bytes = [&](std::size_t header, unsigned j) {
    return load_bytes<R>(unit + header + j * panel_rows + first);
  };
  if constexpr (T == q4_1 || T == q5_1) {
    load_halves<R>(unit + h + first * sizeof(std::uint16_t), out.minimum);
    for (unsigned i = 0; i < R; ++i)
      out.scale[i] = d[i];
  } else if constexpr (T == q2_k) {
    float least[R];
    load_halves<R>(unit + h + first * sizeof(std::uint16_t), least);
    const unsigned both = bytes(2 * h, s);
    for (unsigned i = 0; i < R; ++i) {
      out.scale[i] = d[i] * static_cast<float>(byte_of(both, i) & 15U);
      out.minimum[i] = -(least[i] * static_cast<float>(byte_of(both, i) >> 4));
    }
  } else if constexpr (T == q3_k) {
    const unsigned low = bytes(h, s / 2), high = bytes(h, 8 + s / 4);
    for (unsigned i = 0; i < R; ++i) {
      const unsigned six = ((byte_of(low, i) >> (s % 2 * 4)) & 15U) | (((byte_of(high, i) >> (s % 4 * 2)) & 3U) << 4);
      out.scale[i] = d[i] * static_cast<float>(static_cast<int>(six) - 32);
    }
  } else if constexpr (T == q4_k || T == q5_k) {
    float least[R];
    load_halves<R>(unit + h + first * sizeof(std::uint16_t), least);
    const unsigned a = bytes(2 * h, s), low = bytes(2 * h, 8 + s / 2);
    for (unsigned i = 0; i < R; ++i) {
      const unsigned minimum = ((byte_of(low, i) >> (s % 2 * 4)) & 15U) | ((byte_of(a, i) >> 6) << 4);
      out.scale[i] = d[i] * static_cast<float>(byte_of(a, i) & 63U);
      out.minimum[i] = -(least[i] * static_cast<float>(minimum));
    }
  } else if constexpr (T == q6_k) {
    const unsigned signed_bytes = bytes(h, s);
    for (unsigned i = 0; i < R; ++i)
      out.scale[i] = d[i] * static_cast<float>(static_cast<std::int8_t>(byte_of(signed_bytes, i)));
  } else {
    for (unsigned i = 0; i < R; ++i)
      out.scale[i] = d[i];
  }
  return out;
}

} // namespace tropilla::TROPILLA_CUDA_NS
