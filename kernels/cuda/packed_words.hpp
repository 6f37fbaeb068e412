/// Packed row groups (`kernels/packed_format.hpp`) as a thread reads them: a few neighbouring rows at a time.
///
/// In a block of 32 columns and 16 rows, group g has columns 4 g to 4 g + 3; a row's four are one word.
#pragma once

#include "kernels/cuda/language.hpp"
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

/// Whether a type's bytes are made signed by flipping their top bit, which takes their zero point off for nothing.
template <tensor_type T>
inline constexpr bool flips_bytes = packed::format_of(T).bytes;

/// What is left to take off, as `packed::format` defines it.
template <tensor_type T>
inline constexpr int zero_point = flips_bytes<T> ? 0 : packed::format_of(T).zero_point;

/// Group `g` of `R` rows from `first` on, signed bytes.
template <tensor_type T, unsigned R>
__device__ inline row_words<R> group_rows(const std::byte* block, unsigned g, unsigned first) {
  constexpr packed::format f = packed::format_of(T);
  const auto plane = [&](std::size_t offset) { return load_rows<R>(block + offset + first * packed::group_columns); };
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
    return load_bytes<R>(unit + header + j * packed_row_group + first);
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
