/// Bytes in sentences.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla {

/// As `format_bytes`, rounded up: what `parse_bytes` makes of it is enough. For what must be given at least.
[[nodiscard]] std::string format_bytes_up(std::size_t bytes);

/// "80%", "12.5%": above 0 and up to 100, without a blank. Empty for what does not end with a percent sign. Throws
/// `error` (invalid_argument) for any other percentage.
[[nodiscard]] std::optional<double> parse_percent(std::string_view text);
/// Bytes that a percentage of a limit is; at least one, for 0 is no budget.
[[nodiscard]] std::size_t share_of(std::size_t limit, double percent) noexcept;

} // namespace tropilla
