/// What the system says of its memory.
#pragma once

#include <cstddef>

namespace tropilla::app {

/// Bytes of memory; 0 where the system does not say.
[[nodiscard]] std::size_t all_memory();
/// Bytes that could be taken without anybody's going to disk; 0 where the system does not say.
[[nodiscard]] std::size_t available_memory();

} // namespace tropilla::app
