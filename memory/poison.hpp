// Marks freed bytes so that their use is found. Internal to the pool, for memory that the processor may touch.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define TROPILLA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TROPILLA_ASAN 1
#endif
#endif

namespace tropilla::detail {

#ifdef TROPILLA_ASAN
inline constexpr bool poison_by_sanitizer = true;
#else
inline constexpr bool poison_by_sanitizer = false;
#endif

/// The byte that freed memory is filled with: no small integer, no ordinary float, no pointer.
inline constexpr std::byte poison_pattern{0xdb};

/// Makes the bytes unusable: with AddressSanitizer any access is reported, else they are filled with the pattern.
void poison(std::byte* data, std::size_t bytes) noexcept;
/// As `poison`, before the first use: nothing is filled, because pages that were never written cost nothing.
void poison_unused(std::byte* data, std::size_t bytes) noexcept;
/// Makes the bytes usable. Their contents are anything.
void unpoison(std::byte* data, std::size_t bytes) noexcept;
/// The first byte that was written since it was freed, or `bytes`. A zero counts as untouched: pages that were never
/// used, or given back to the system, read as zeros. With AddressSanitizer always `bytes`.
[[nodiscard]] std::size_t first_damage(const std::byte* data, std::size_t bytes) noexcept;

} // namespace tropilla::detail
