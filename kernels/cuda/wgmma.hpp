/// Matrix products of a warpgroup on Hopper's tensor cores (sm_90a), and the asynchronous copies that feed them. Both
/// run beside what a thread does next; it waits for them in groups.
///
/// `C += A B` with A of 64 rows and B of 192 columns, 16 deep, both from shared memory. There a matrix of 16-bit
/// numbers is tiles of 8 x 8, 128 bytes each: `tile_columns` follow each other (in the direction of the sum), then come
/// those of the next eight rows of A, or columns of B. A tile of A has eight numbers of one depth side by side, of B
/// eight depths of one column: "MN-major" and "K-major" without swizzling, in the PTX ISA's words ("Asynchronous
/// Warpgroup Level Matrix Shared Memory Layout", "Matrix descriptor", "wgmma.mma_async"). Lane 4 g + t of warp w has
///   C    of eight columns after eight columns: rows 16 w + g (c[0], c[1]) and 16 w + g + 8 (c[2], c[3]) of columns
///        2 t and 2 t + 1
/// All threads of a warpgroup, four warps of which the first has a number that four divides, call these functions
/// together.
#pragma once

#include "kernels/cuda/cuda_compat.hpp"

namespace tropilla::TROPILLA_CUDA_NS {

inline constexpr unsigned warpgroup_size = 4 * warp_size;
inline constexpr unsigned warpgroup_rows = 64, warpgroup_columns = 192, warpgroup_depth = 16;

/// Rows, or columns, and depth of a tile, and how many tiles follow each other.
inline constexpr unsigned tile_side = 8, tile_columns = 8;
inline constexpr unsigned tile_bytes = tile_side * tile_side * 2;
inline constexpr unsigned tile_row_bytes = tile_columns * tile_bytes;

/// A lane's part of C.
using warpgroup_sums = float[warpgroup_columns / tile_side][4];

#ifdef TROPILLA_EMULATE_CUDA

template <bool Bf16>
void wgmma_async(warpgroup_sums& c, const std::byte* a, const std::byte* b, bool add) {
  const unsigned thread = threadIdx.x;
  emulation::start(emulation::started::products, [&c, a, b, add, thread] {
    const auto number = [](const std::byte* at) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, at, sizeof bits);
      return Bf16 ? bf16_to_float32(bits) : to_float(bits);
    };
    const auto tile = [](const std::byte* of, unsigned row, unsigned depth) {
      return of + row / tile_side * tile_row_bytes + depth / tile_side * tile_bytes;
    };
    const unsigned lane = thread % warp_size, first_row = thread % warpgroup_size / warp_size * 16;
    for (unsigned n = 0; n < warpgroup_columns / tile_side; ++n)
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = first_row + lane / 4 + i / 2 * 8, column = n * tile_side + lane % 4 * 2 + i % 2;
        double sum = add ? c[n][i] : 0; // as in `emulation::matrix_product`
        for (unsigned k = 0; k < warpgroup_depth; ++k)
          sum += double{number(tile(a, row, k) + (k % tile_side * tile_side + row % tile_side) * 2)} *
                 number(tile(b, column, k) + (column % tile_side * tile_side + k % tile_side) * 2);
        c[n][i] = static_cast<float>(sum);
      }
  });
}

inline void begin_products() {}
inline void end_products() {
  emulation::end_group(emulation::started::products);
}
template <unsigned Pending>
void wait_for_products() {
  emulation::wait_for_groups(emulation::started::products, Pending);
}
inline void wgmma_wait(warpgroup_sums&) {
  wait_for_products<0>();
}

inline void cp_async(std::byte* to, const std::byte* from, bool there) {
  emulation::start(emulation::started::copies, [=] {
    if (there)
      std::memcpy(to, from, sizeof(uint4));
    else
      std::memset(to, 0, sizeof(uint4));
  });
}
inline void end_copies() {
  emulation::end_group(emulation::started::copies);
}
template <unsigned Pending>
void wait_for_copies() {
  emulation::wait_for_groups(emulation::started::copies, Pending);
}

#else

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define TROPILLA_WGMMA_CODE 1
#else
#define TROPILLA_WGMMA_CODE 0 // such kernels are compiled, and never launched
#endif

/// The descriptor of a matrix: where it begins in shared memory, and how far apart its tiles are.
__device__ inline std::uint64_t describe_matrix(const std::byte* at) {
  constexpr unsigned unit = 16;
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(at));
  return (address & 0x3FFFFU) / unit | std::uint64_t{tile_bytes / unit} << 16 |
         std::uint64_t{tile_row_bytes / unit} << 32;
}

// The numbers of a lane's sums, as operands of an instruction.
#define TROPILLA_SUMS_1(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define TROPILLA_SUMS_4(i)                                                                                             \
  TROPILLA_SUMS_1(i), TROPILLA_SUMS_1((i) + 1), TROPILLA_SUMS_1((i) + 2), TROPILLA_SUMS_1((i) + 3)
#define TROPILLA_SUMS_24                                                                                               \
  TROPILLA_SUMS_4(0), TROPILLA_SUMS_4(4), TROPILLA_SUMS_4(8), TROPILLA_SUMS_4(12), TROPILLA_SUMS_4(16),                \
      TROPILLA_SUMS_4(20)
#define TROPILLA_WGMMA(type)                                                                                           \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"                                                                         \
  "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {"                                                    \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"                             \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                   \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,"                   \
  "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95},"                  \
  " %96, %97, p, 1, 1, 1, 0;\n}\n"

/// `add` false: C becomes A B.
template <bool Bf16>
__device__ inline void wgmma_async([[maybe_unused]] warpgroup_sums& c, [[maybe_unused]] const std::byte* a,
                                   [[maybe_unused]] const std::byte* b, [[maybe_unused]] bool add) {
#if TROPILLA_WGMMA_CODE
  const std::uint64_t of_a = describe_matrix(a), of_b = describe_matrix(b);
  if constexpr (Bf16)
    asm volatile(TROPILLA_WGMMA("bf16") : TROPILLA_SUMS_24 : "l"(of_a), "l"(of_b), "r"(static_cast<int>(add)));
  else
    asm volatile(TROPILLA_WGMMA("f16") : TROPILLA_SUMS_24 : "l"(of_a), "l"(of_b), "r"(static_cast<int>(add)));
#endif
}

/// Call before the first product that adds to sums which other instructions touched, and after copies have arrived.
__device__ inline void begin_products() {
#if TROPILLA_WGMMA_CODE
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void end_products() {
#if TROPILLA_WGMMA_CODE
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Waits for the warpgroup's groups, all but the last `Pending`.
template <unsigned Pending>
__device__ inline void wait_for_products() {
#if TROPILLA_WGMMA_CODE
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#endif
}
/// Waits for all groups; the sums can be read then.
__device__ inline void wgmma_wait(warpgroup_sums& c) {
  wait_for_products<0>();
  // So that no read moves to before the wait.
  asm volatile("" : TROPILLA_SUMS_24::"memory");
}

/// Copies sixteen bytes, or zeros where `there` is false.
__device__ inline void cp_async(std::byte* to, const std::byte* from, bool there) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const unsigned bytes = there ? 16 : 0; // the rest becomes zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for the thread's groups of copies, all but the last `Pending`. Products may read what arrived after the
/// block's next barrier.
template <unsigned Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#if TROPILLA_WGMMA_CODE
  // Tensor cores read shared memory past what orders a thread's own accesses to it.
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#undef TROPILLA_SUMS_1
#undef TROPILLA_SUMS_4
#undef TROPILLA_SUMS_24
#undef TROPILLA_WGMMA
#undef TROPILLA_WGMMA_CODE

#endif

} // namespace tropilla::TROPILLA_CUDA_NS
