// Formats byte counts for people and parses the ones that people write.
#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <fmt/format.h>
#include <limits>

namespace tropilla {
namespace {

struct unit {
  std::string_view name; ///< lower case
  std::uint64_t bytes;
};

constexpr std::uint64_t kib = 1024;
constexpr std::array<unit, 14> units{{{"", 1},
                                      {"b", 1},
                                      {"k", kib},
                                      {"kib", kib},
                                      {"kb", 1000},
                                      {"m", kib* kib},
                                      {"mib", kib* kib},
                                      {"mb", 1000000},
                                      {"g", kib* kib* kib},
                                      {"gib", kib* kib* kib},
                                      {"gb", 1000000000},
                                      {"t", kib* kib* kib* kib},
                                      {"tib", kib* kib* kib* kib},
                                      {"tb", 1000000000000}}};

constexpr std::array<std::string_view, 6> unit_names{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

[[noreturn]] void refuse(std::string_view text) {
  throw error(errc::invalid_argument,
              fmt::format("\"{}\" is no number of bytes; write it like 300MiB, 1.5GiB or 4096", text));
}

} // namespace

std::string format_bytes(std::size_t bytes) {
  if (bytes < kib)
    return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / static_cast<double>(kib);
  std::size_t i = 0;
  for (; value >= 1023.95 && i + 1 < unit_names.size(); ++i) // what would round to 1024.0 belongs to the next unit
    value /= static_cast<double>(kib);
  return fmt::format("{:.1f} {}", value, unit_names[i]);
}

std::string format_bytes_up(std::size_t bytes) {
  if (bytes < kib)
    return format_bytes(bytes);
  std::size_t i = 0;
  std::uint64_t unit = kib;
  for (; bytes / unit >= kib && i + 1 < unit_names.size(); ++i)
    unit *= kib;
  std::uint64_t tenths = bytes / unit * 10 + divide_up(bytes % unit * 10, unit);
  if (tenths == kib * 10 && i + 1 < unit_names.size()) {
    tenths = 10;
    ++i;
  }
  return fmt::format("{}.{} {}", tenths / 10, tenths % 10, unit_names[i]);
}

std::size_t share_of(std::size_t limit, double percent) noexcept {
  return std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(limit) * percent / 100));
}

std::optional<double> parse_percent(std::string_view text) {
  if (!text.ends_with('%'))
    return std::nullopt;
  double value = 0;
  const char* const end = text.data() + text.size() - 1;
  const auto found = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (found.ec != std::errc{} || found.ptr != end || !(value > 0 && value <= 100)) // the negation also catches NaN
    throw error(errc::invalid_argument,
                fmt::format("\"{}\" is no share of the memory; write it like 80%: above 0%, up to 100%, and without a "
                            "blank",
                            text));
  return value;
}

std::size_t parse_bytes(std::string_view text) {
  constexpr std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max();
  std::size_t i = 0;
  std::uint64_t whole = 0, fraction = 0, scale = 1;
  const auto digit = [&] { return i < text.size() && std::isdigit(static_cast<unsigned char>(text[i])); };
  const std::size_t first = i;
  for (; digit(); ++i) {
    const auto d = static_cast<std::uint64_t>(text[i] - '0');
    if (whole > (max_bytes - d) / 10)
      refuse(text);
    whole = whole * 10 + d;
  }
  if (i == first)
    refuse(text);
  if (i < text.size() && text[i] == '.') {
    const std::size_t point = ++i;
    for (; digit(); ++i)
      if (scale < 1000000) { // more digits change nothing that matters
        fraction = fraction * 10 + static_cast<std::uint64_t>(text[i] - '0');
        scale *= 10;
      }
    if (i == point)
      refuse(text);
  }
  while (i < text.size() && text[i] == ' ')
    ++i;
  std::string name(text.substr(i));
  for (auto& c : name)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const auto& u : units) {
    if (u.name != name)
      continue;
    const auto fraction_bytes = static_cast<std::uint64_t>(static_cast<double>(fraction) / static_cast<double>(scale) *
                                                           static_cast<double>(u.bytes));
    if (whole > (max_bytes - fraction_bytes) / u.bytes)
      refuse(text);
    return whole * u.bytes + fraction_bytes;
  }
  refuse(text);
}

} // namespace tropilla
