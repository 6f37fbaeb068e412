/// Formats numbers that may not have been measured.
#pragma once

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <string>

namespace tropilla::app {

/// A rate or a time that is above 0, or null: what was not measured is no 0.
[[nodiscard]] inline nlohmann::ordered_json measured(double value) {
  return value > 0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

/// "512.3 tok/s", or "-" for what was not measured.
[[nodiscard]] inline std::string format_rate(double tokens_per_second) {
  return tokens_per_second > 0 ? fmt::format("{:.1f} tok/s", tokens_per_second) : "-";
}

} // namespace tropilla::app
