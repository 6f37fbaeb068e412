/// Formats and parses byte counts and percentages for messages and options.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla {

/// "12.5 MiB": bytes for people.
[[nodiscard]] std::string format_bytes(std::size_t bytes);
/// As `format_bytes`, rounded up, so that `parse_bytes` of the text gives at least `bytes`. For the least value that
/// works.
[[nodiscard]] std::string format_bytes_up(std::size_t bytes);

/// "300MiB", "1.5GiB", "4096", "2GB" to bytes. Throws `error` (invalid_argument).
[[nodiscard]] std::size_t parse_bytes(std::string_view text);

/// "80%", "12.5%": above 0 and up to 100, without a blank. Empty when the text does not end with a percent sign. Throws
/// `error` (invalid_argument) for any other percentage.
[[nodiscard]] std::optional<double> parse_percent(std::string_view text);
/// The bytes in `percent` of a limit; at least one, since a budget of 0 means none.
[[nodiscard]] std::size_t share_of(std::size_t limit, double percent) noexcept;

} // namespace tropilla
