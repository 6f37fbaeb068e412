/// Packed row groups (`kernels/packed_format.hpp`) as a thread reads them: sixteen bytes at a time.
///
/// In a block of 32 columns and 16 rows, group g has columns 4 g to 4 g + 3. A thread that reads sixteen bytes gets a
/// *quad*: four neighbouring rows, each with the four columns of a group in one word, as `dp4a` wants them.
#pragma once

#include "kernels/cuda/language.hpp"
#include "kernels/packed_format.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

struct quad {
  int row[4];
};

__device__ inline quad load_quad(const std::byte* p) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  return {{static_cast<int>(v.x), static_cast<int>(v.y), static_cast<int>(v.z), static_cast<int>(v.w)}};
}

template <class F>
__device__ inline quad each(const quad& a, const quad& b, F f) {
  return {{f(a.row[0], b.row[0]), f(a.row[1], b.row[1]), f(a.row[2], b.row[2]), f(a.row[3], b.row[3])}};
}

/// Whether a type's bytes are made signed by flipping their top bit, which takes their zero point off for nothing.
template <tensor_type T>
inline constexpr bool flips_bytes = packed::format_of(T).bytes;

/// What is left to take off, as `packed::format` defines it.
template <tensor_type T>
inline constexpr int zero_point = flips_bytes<T> ? 0 : packed::format_of(T).zero_point;

/// Rows 4 `rows` to 4 `rows` + 3 of group `g`, signed bytes.
template <tensor_type T>
__device__ inline quad group_quad(const std::byte* block, unsigned g, unsigned rows) {
  constexpr packed::format f = packed::format_of(T);
  const auto plane = [&](std::size_t offset) { return load_quad(block + offset + rows * 4 * packed::group_columns); };
  if constexpr (f.bytes) {
    const quad q = plane(g * packed::vector_bytes);
    return each(q, q, [](int a, int) { return a ^ static_cast<int>(0x80808080U); });
  } else {
    quad q{};
    if constexpr (f.nibbles) {
      const unsigned down = g / 4 * 4;
      q = plane(g % 4 * packed::vector_bytes);
      q = each(q, q, [down](int a, int) { return static_cast<int>((static_cast<unsigned>(a) >> down) & 0x0F0F0F0FU); });
    }
    if constexpr (f.twos) {
      constexpr unsigned up = f.nibbles ? 4 : 0;
      const unsigned down = g % 4 * 2;
      q = each(q, plane(f.twos_offset() + g / 4 * packed::vector_bytes), [down](int a, int b) {
        return a | static_cast<int>(((static_cast<unsigned>(b) >> down) & 0x03030303U) << up);
      });
    }
    if constexpr (f.ones) {
      constexpr unsigned up = f.nibbles ? 4 : 2;
      q = each(q, plane(f.ones_offset()), [g](int a, int b) {
        return a | static_cast<int>(((static_cast<unsigned>(b) >> g) & 0x01010101U) << up);
      });
    }
    return q;
  }
}

struct quad_scales {
  float scale[4];
  float minimum[4];
};

/// Four halves, or four bytes as unsigned numbers.
__device__ inline void load_halves(const std::byte* p, float (&out)[4]) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  out[0] = to_float(static_cast<std::uint16_t>(v.x));
  out[1] = to_float(static_cast<std::uint16_t>(v.x >> 16));
  out[2] = to_float(static_cast<std::uint16_t>(v.y));
  out[3] = to_float(static_cast<std::uint16_t>(v.y >> 16));
}
__device__ inline unsigned load_word(const std::byte* p) {
  return *reinterpret_cast<const unsigned*>(p);
}
__device__ inline unsigned byte_of(unsigned word, unsigned i) {
  return (word >> (8 * i)) & 255U;
}

/// Scale and minimum `s` of a unit for rows 4 `rows` to 4 `rows` + 3: `packed::scale_at`, four rows at once.
template <tensor_type T>
__device__ inline quad_scales unit_scales(const std::byte* unit, unsigned rows, unsigned s) {
  using enum tensor_type;
  constexpr std::size_t h = packed::halves_bytes;
  quad_scales out{};
  float d[4];
  load_halves(unit + rows * 4 * sizeof(std::uint16_t), d);
  const auto bytes = [&](std::size_t header, unsigned j) {
    return load_word(unit + header + j * packed_row_group + rows * 4);
  };
  if constexpr (T == q4_1 || T == q5_1) {
    load_halves(unit + h + rows * 4 * sizeof(std::uint16_t), out.minimum);
    for (unsigned i = 0; i < 4; ++i)
      out.scale[i] = d[i];
  } else if constexpr (T == q2_k) {
    float least[4];
    load_halves(unit + h + rows * 4 * sizeof(std::uint16_t), least);
    const unsigned both = bytes(2 * h, s);
    for (unsigned i = 0; i < 4; ++i) {
      out.scale[i] = d[i] * static_cast<float>(byte_of(both, i) & 15U);
      out.minimum[i] = -(least[i] * static_cast<float>(byte_of(both, i) >> 4));
    }
  } else if constexpr (T == q3_k) {
    const unsigned low = bytes(h, s / 2), high = bytes(h, 8 + s / 4);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned six = ((byte_of(low, i) >> (s % 2 * 4)) & 15U) | (((byte_of(high, i) >> (s % 4 * 2)) & 3U) << 4);
      out.scale[i] = d[i] * static_cast<float>(static_cast<int>(six) - 32);
    }
  } else if constexpr (T == q4_k || T == q5_k) {
    float least[4];
    load_halves(unit + h + rows * 4 * sizeof(std::uint16_t), least);
    const unsigned a = bytes(2 * h, s), low = bytes(2 * h, 8 + s / 2);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned minimum = ((byte_of(low, i) >> (s % 2 * 4)) & 15U) | ((byte_of(a, i) >> 6) << 4);
      out.scale[i] = d[i] * static_cast<float>(byte_of(a, i) & 63U);
      out.minimum[i] = -(least[i] * static_cast<float>(minimum));
    }
  } else if constexpr (T == q6_k) {
    const unsigned signed_bytes = bytes(h, s);
    for (unsigned i = 0; i < 4; ++i)
      out.scale[i] = d[i] * static_cast<float>(static_cast<std::int8_t>(byte_of(signed_bytes, i)));
  } else {
    for (unsigned i = 0; i < 4; ++i)
      out.scale[i] = d[i];
  }
  return out;
}

} // namespace tropilla::TROPILLA_CUDA_NS
