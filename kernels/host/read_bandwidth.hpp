/// Measures how fast memory is read.
#pragma once

#include <cstddef>

namespace tropilla::host {

/// Bytes per second of `threads` threads that each sum their own share of `bytes` bytes: the best of `passes`. Caches
/// answer for a buffer that they hold. Throws `error` (io_error) when the system refuses the buffer.
[[nodiscard]] double read_bandwidth(std::size_t threads, std::size_t bytes, int passes);

} // namespace tropilla::host
