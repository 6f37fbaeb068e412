// Poisons freed bytes through AddressSanitizer's shadow memory, or else with a pattern that is checked when the bytes
// are used again.
#include "memory/poison.hpp"

#include <cstdint>
#include <cstring>

#ifdef TROPILLA_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace tropilla::detail {

#ifdef TROPILLA_ASAN

void poison(std::byte* data, std::size_t bytes) noexcept {
  ASAN_POISON_MEMORY_REGION(data, bytes);
}
void poison_unused(std::byte* data, std::size_t bytes) noexcept {
  ASAN_POISON_MEMORY_REGION(data, bytes);
}
void unpoison(std::byte* data, std::size_t bytes) noexcept {
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
}
std::size_t first_damage(const std::byte*, std::size_t bytes) noexcept {
  return bytes; // the access itself was reported
}

#else

void poison(std::byte* data, std::size_t bytes) noexcept {
  std::memset(data, static_cast<int>(poison_pattern), bytes);
}
void poison_unused(std::byte*, std::size_t) noexcept {}
void unpoison(std::byte*, std::size_t) noexcept {}

std::size_t first_damage(const std::byte* data, std::size_t bytes) noexcept {
  std::uint64_t clean = 0;
  std::memset(&clean, static_cast<int>(poison_pattern), sizeof clean);
  for (std::size_t i = 0; i < bytes;) {
    std::uint64_t word = 0;
    if (i + sizeof word <= bytes) {
      std::memcpy(&word, data + i, sizeof word);
      if (word == 0 || word == clean) {
        i += sizeof word;
        continue;
      }
    }
    if (data[i] != std::byte{0} && data[i] != poison_pattern)
      return i;
    ++i;
  }
  return bytes;
}

#endif

} // namespace tropilla::detail
