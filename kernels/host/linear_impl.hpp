/// Code that the kernels of every instruction set share. For `linear_*.cpp` only: each of those files is compiled with
/// its own instructions, so everything here is expanded inside them and nothing is left for the linker to share.
#pragma once

#include "kernels/host/linear.hpp"
#include "kernels/packed_format.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace tropilla::host {

/// The table of an instruction set: `kernels.template operator()<T>()` gives the `linear_type` of each type.
template <class Kernels>
consteval linear_table make_linear_table(std::string_view isa, decltype(linear_table::multiply_full) multiply_full,
                                         Kernels kernels) {
  using enum tensor_type;
  linear_table table{isa, {}, multiply_full};
  const auto add = [&]<tensor_type... Types>() {
    ((table.types[static_cast<std::size_t>(Types)] = kernels.template operator()<Types>()), ...);
  };
  add.template operator()<f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl>();
  return table;
}

/// Calls `f(std::integral_constant<int, 0>)` to `f(std::integral_constant<int, N - 1>)`: a loop whose indices are
/// constants, for what is a template's argument.
template <int N, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

/// Put in front of a loop over arrays of vectors, it makes the indices constants, so that the arrays stay in registers.
/// Where no index is a template's argument, this compiles several times as fast as `unrolled`, whose every call is
/// inlined.
#define TROPILLA_UNROLL _Pragma("GCC unroll 16")

/// The properties of a type that a product of unpacked blocks depends on. Types with the same properties share their
/// code, on which these files spend most of their compile time.
struct values_format {
  int block_scales; ///< one or two
  bool minimum;     ///< as in packed::format
  int zero_point;   ///< as in packed::format
};
constexpr values_format values_of(tensor_type type) {
  const packed::format f = packed::format_of(type);
  return {static_cast<int>(f.block_scales()), f.minimum, f.zero_point};
}

/// The sums of the inputs that share one of the type's scales, from the first block of `x` on.
template <values_format V>
[[gnu::always_inline]] inline const float* input_sums(const quantised_rows& x) {
  return V.block_scales == 2 ? x.sum16 : x.sum32;
}
template <values_format V>
[[gnu::always_inline]] inline const std::int32_t* input_minus(const quantised_rows& x) {
  return V.block_scales == 2 ? x.minus16 : x.minus32;
}

} // namespace tropilla::host
