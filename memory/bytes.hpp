/// Bytes in sentences.
#pragma once

#include <cstddef>
#include <string>

namespace tropilla {

/// As `format_bytes`, rounded up: what `parse_bytes` makes of it is enough. For what must be given at least.
[[nodiscard]] std::string format_bytes_up(std::size_t bytes);

} // namespace tropilla
