/// Defines the blocks of quantised tensors as they lie in GGUF files.
///
/// Source: ggml's block structures (`ggml-common.h`), checked against PyPI's `gguf.quants`. All are little-endian and
/// at even offsets only, so read them with `std::memcpy` or from memory that is aligned to two bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tropilla::formats {

/// An IEEE half, as bits: see `half_to_float`.
using half_bits = std::uint16_t;

inline constexpr std::size_t small_block = 32;  ///< values of a Q4_0 to Q8_0 or IQ4_NL block
inline constexpr std::size_t super_block = 256; ///< values of a K block

/// `x[i] = d * (q[i] - 8)`. Byte j holds value j in its low nibble and value j + 16 in its high one.
struct block_q4_0 {
  half_bits d;
  std::uint8_t qs[small_block / 2];
};

/// `x[i] = d * q[i] + m`. Nibbles as in Q4_0.
struct block_q4_1 {
  half_bits d;
  half_bits m;
  std::uint8_t qs[small_block / 2];
};

/// `x[i] = d * (q[i] - 16)`. Low four bits as in Q4_0; bit i of the 32-bit `qh` is the fifth bit of value i.
struct block_q5_0 {
  half_bits d;
  std::uint8_t qh[4];
  std::uint8_t qs[small_block / 2];
};

/// `x[i] = d * q[i] + m`. Bits as in Q5_0.
struct block_q5_1 {
  half_bits d;
  half_bits m;
  std::uint8_t qh[4];
  std::uint8_t qs[small_block / 2];
};

/// `x[i] = d * q[i]`.
struct block_q8_0 {
  half_bits d;
  std::int8_t qs[small_block];
};

/// Sixteen sub-blocks of 16: `x = d * scale * q - dmin * min`, both four bits (scale low, min high).
/// Value 128 h + 32 s + l has bits 2 s and 2 s + 1 of `qs[32 h + l]`.
struct block_q2_k {
  std::uint8_t scales[super_block / 16];
  std::uint8_t qs[super_block / 4];
  half_bits d;
  half_bits dmin;
};

/// Sixteen sub-blocks of 16: `x = d * (scale - 32) * (q - 4)`, scales six bits, `q` three.
/// Low two bits of `q` as in Q2_K; bit i / 32 of `hmask[i % 32]` is the third bit of value i.
/// Low four bits of scale j are in nibble j / 8 of `scales[j % 8]`, its high two at bit 2 (j / 4) of `scales[8 + j %
/// 4]`.
struct block_q3_k {
  std::uint8_t hmask[super_block / 8];
  std::uint8_t qs[super_block / 4];
  std::uint8_t scales[12];
  half_bits d;
};

/// Eight sub-blocks of 32: `x = d * scale * q - dmin * min`, scale and min six bits (`unpack_scale_min`).
/// Sub-block 2 c is in the low nibbles of `qs[32 c ..]`, sub-block 2 c + 1 in the high ones.
struct block_q4_k {
  half_bits d;
  half_bits dmin;
  std::uint8_t scales[12];
  std::uint8_t qs[super_block / 2];
};

/// As Q4_K; bit s of `qh[l]` is the fifth bit of value l of sub-block s.
struct block_q5_k {
  half_bits d;
  half_bits dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[super_block / 8];
  std::uint8_t qs[super_block / 2];
};

/// Sixteen sub-blocks of 16: `x = d * scale * (q - 32)`, scales signed eight bits.
/// Value 128 h + 64 n + l (l < 64) has its low four bits in nibble n of `ql[64 h + l]`;
/// value 128 h + 32 s + l (l < 32) its high two at bit 2 s of `qh[32 h + l]`.
struct block_q6_k {
  std::uint8_t ql[super_block / 2];
  std::uint8_t qh[super_block / 4];
  std::int8_t scales[super_block / 16];
  half_bits d;
};

/// `x[i] = d * iq4_nl_values[q[i]]`. Nibbles as in Q4_0.
struct block_iq4_nl {
  half_bits d;
  std::uint8_t qs[small_block / 2];
};

/// The codebook of IQ4_NL, ascending: levels lie closer together around zero, where most weights are.
inline constexpr std::array<std::int8_t, 16> iq4_nl_values{-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};

static_assert(sizeof(block_q4_0) == 18);
static_assert(sizeof(block_q4_1) == 20);
static_assert(sizeof(block_q5_0) == 22);
static_assert(sizeof(block_q5_1) == 24);
static_assert(sizeof(block_q8_0) == 34);
static_assert(sizeof(block_q2_k) == 84);
static_assert(sizeof(block_q3_k) == 110);
static_assert(sizeof(block_q4_k) == 144);
static_assert(sizeof(block_q5_k) == 176);
static_assert(sizeof(block_q6_k) == 210);
static_assert(sizeof(block_iq4_nl) == 18);

/// Six-bit scale and min of one sub-block of Q4_K and Q5_K.
struct scale_min {
  std::uint8_t scale;
  std::uint8_t min;
};

/// Sub-block `s` (0 to 7) of the twelve packed bytes.
[[nodiscard]] constexpr scale_min unpack_scale_min(const std::uint8_t* scales, std::size_t s) noexcept {
  if (s < 4)
    return {static_cast<std::uint8_t>(scales[s] & 0x3F), static_cast<std::uint8_t>(scales[4 + s] & 0x3F)};
  const std::uint8_t low = scales[4 + s];
  return {static_cast<std::uint8_t>((low & 0x0F) | ((scales[s - 4] >> 2) & 0x30)),
          static_cast<std::uint8_t>((low >> 4) | ((scales[s] >> 2) & 0x30))};
}

/// Scale (0 to 63, with the offset of 32 still in it) of sub-block `j` (0 to 15) of a Q3_K block.
[[nodiscard]] constexpr std::uint8_t unpack_q3_k_scale(const std::uint8_t* scales, std::size_t j) noexcept {
  const unsigned low = (scales[j % 8] >> (4 * (j / 8))) & 0x0FU;
  const unsigned high = (scales[8 + j % 4] >> (2 * (j / 4))) & 0x03U;
  return static_cast<std::uint8_t>(low | (high << 4));
}

} // namespace tropilla::formats
