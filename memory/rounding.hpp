/// Rounds numbers of bytes, rows and blocks to multiples. Device code of CUDA may call all of it.
#pragma once

#include <concepts>
#include <type_traits>

namespace tropilla {

// Always inlined, for sources that are compiled for one instruction set call these, too: a copy of theirs must not be
// the one that the linker keeps for all.

/// The fewest pieces of `by` that hold `n`; never overflows. @pre `by` > 0
template <std::unsigned_integral T>
[[nodiscard, gnu::always_inline]] constexpr T divide_up(T n, std::type_identity_t<T> by) noexcept {
  return static_cast<T>(n / by + (n % by != 0 ? 1 : 0));
}

/// The least multiple of `multiple` that is no less than `n`; where `T` has none, it wraps. @pre `multiple` > 0
template <std::unsigned_integral T>
[[nodiscard, gnu::always_inline]] constexpr T round_up(T n, std::type_identity_t<T> multiple) noexcept {
  return static_cast<T>(divide_up(n, multiple) * multiple);
}

/// The greatest multiple of `multiple` that is no more than `n`. @pre `multiple` > 0
template <std::unsigned_integral T>
[[nodiscard, gnu::always_inline]] constexpr T round_down(T n, std::type_identity_t<T> multiple) noexcept {
  return static_cast<T>(n / multiple * multiple);
}

} // namespace tropilla
