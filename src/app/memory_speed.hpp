/// How fast this machine's memory is read.
#pragma once

#include <cstddef>

namespace tropilla::app {

/// Bytes per second that all usable cores read together, in about 0.1 s: the best of some passes over 256 MiB, or over
/// an eighth of `free_bytes` where that is less. Of a few MiB, which caches hold, it says more than memory gives.
[[nodiscard]] double measure_reading(std::size_t free_bytes);

} // namespace tropilla::app
