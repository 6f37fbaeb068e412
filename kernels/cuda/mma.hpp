/// Matrix products that a warp computes on tensor cores (`mma`).
///
/// `C += A B`, A of sixteen rows, B of eight columns. The PTX ISA says which numbers a lane has ("Matrix fragments for
/// mma.m16n8k32", "... mma.m16n8k16"): lane 4 g + t has
///   C    rows g (c[0], c[1]) and g + 8 (c[2], c[3]) of columns 2 t and 2 t + 1
///   A    of bytes: four of row g from 4 t on (a[0]), of row g + 8 (a[1]), and the same from 4 t + 16 on (a[2], a[3])
///        of 16-bit numbers: two from 2 t on and from 2 t + 8 on, of the same rows in the same order
///   B    of column g, the same numbers (b[0], b[1])
/// All lanes of a warp call these functions together. The order in which a product's numbers are added is the
/// hardware's and does not depend on the lane; sums of integers are exact.
#pragma once

#include "kernels/cuda/cuda_compat.hpp"

#include <type_traits>

#ifndef TROPILLA_EMULATE_CUDA
#include <cuda_bf16.h>
#endif

namespace tropilla::TROPILLA_CUDA_NS {

#ifdef TROPILLA_EMULATE_CUDA

namespace emulation {

/// The product of fragments of `Width` bits a number; `number(word, i)` is the i-th of a word. Floats are added in
/// double and rounded once: hardware adds the products of an instruction together, in no order.
template <unsigned Width, class T, class F>
void matrix_product(T (&c)[4], const words& mine, unsigned depth, F number) {
  constexpr unsigned in_word = 32 / Width, half = 4 * in_word; // numbers that a register has of all lanes of a row
  const words* const of = exchange(mine);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i / 2) * 8, column = lane % 4 * 2 + i % 2;
    std::conditional_t<std::is_same_v<T, float>, double, T> sum = c[i];
    for (unsigned k = 0; k < depth; ++k) {
      const unsigned t = k % half / in_word, second = k / half;
      const auto a = number(of[row % 8 * 4 + t][row / 8 + 2 * second], k % in_word);
      const auto b = number(of[column * 4 + t][4 + second], k % in_word);
      sum += decltype(sum){a} * b;
    }
    c[i] = static_cast<T>(sum);
  }
}

} // namespace emulation

/// Signed bytes: 32 columns of A.
inline void multiply_bytes(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulation::matrix_product<8>(c, {a[0], a[1], a[2], a[3], b[0], b[1]}, 32, [](unsigned word, unsigned i) {
    return static_cast<int>(static_cast<std::int8_t>(word >> (8 * i)));
  });
}
/// 16 columns of A: `a[0]`, `a[1]` and `b[0]` of the above.
inline void multiply_bytes(int (&c)[4], const unsigned (&a)[2], unsigned b) {
  emulation::matrix_product<8>(c, {a[0], a[1], 0, 0, b, 0}, 16, [](unsigned word, unsigned i) {
    return static_cast<int>(static_cast<std::int8_t>(word >> (8 * i)));
  });
}

/// 16-bit numbers: IEEE halves or bfloat16, 16 columns of A.
template <bool Bf16>
void multiply_halves(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulation::matrix_product<16>(c, {a[0], a[1], a[2], a[3], b[0], b[1]}, 16, [](unsigned word, unsigned i) {
    const auto bits = static_cast<std::uint16_t>(word >> (16 * i));
    return Bf16 ? bf16_to_float32(bits) : to_float(bits);
  });
}

/// Lane 4 g + t has numbers 2 t and 2 t + 1 (16 bits) of row g of a matrix of 8 x 8, and gets those of column g.
inline unsigned transpose(unsigned pair) {
  const emulation::words* const of = emulation::exchange({pair});
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto number = [&](unsigned row) { return (of[row * 4 + g / 2][0] >> (g % 2 * 16)) & 0xFFFFU; };
  return number(2 * t) | (number(2 * t + 1) << 16);
}

#else

/// Signed bytes: 32 columns of A.
__device__ inline void multiply_bytes(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// 16 columns of A: `a[0]`, `a[1]` and `b[0]` of the above.
__device__ inline void multiply_bytes(int (&c)[4], const unsigned (&a)[2], unsigned b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b));
}

/// 16-bit numbers: IEEE halves or bfloat16, 16 columns of A.
template <bool Bf16>
__device__ inline void multiply_halves(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (Bf16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Lane 4 g + t has numbers 2 t and 2 t + 1 (16 bits) of row g of a matrix of 8 x 8, and gets those of column g.
__device__ inline unsigned transpose(unsigned pair) {
  unsigned out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

#endif

/// Two numbers as a word, the first in its low half.
template <bool Bf16>
__device__ inline unsigned pack_halves(float low, float high) {
#ifndef TROPILLA_EMULATE_CUDA
  if constexpr (Bf16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&both);
  }
#endif
  const auto narrow = [](float x) { return Bf16 ? to_bf16(x) : to_half(x); };
  return narrow(low) | static_cast<unsigned>(narrow(high)) << 16;
}

/// The low halves of two words, and their high ones: what a column of two rows becomes as rows of two columns.
__device__ inline unsigned low_halves(unsigned first, unsigned second) {
  return (first & 0xFFFFU) | (second << 16);
}
__device__ inline unsigned high_halves(unsigned first, unsigned second) {
  return (first >> 16) | (second & 0xFFFF0000U);
}

} // namespace tropilla::TROPILLA_CUDA_NS
