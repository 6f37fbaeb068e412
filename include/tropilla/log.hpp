/// Lets a program read or keep the log of a runtime's work: records, levels, components and the sink that gets them.
///
///     tropilla::runtime_config config;
///     config.log.sink = [](const tropilla::log_record& r) {
///       std::cerr << to_string(r.level) << " " << r.component << ": " << r.message << "\n";
///     };
///     config.log.components = {{"loader", tropilla::log_level::debug}};
#pragma once

#include "tropilla/export.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

enum class log_level : std::uint8_t {
  trace,   ///< every step, and every read of streamed weights
  debug,   ///< every request, weight group and actor
  info,    ///< what is opened, changed and closed; while replies are computed, a line every ten seconds
  warning, ///< something goes otherwise than asked for, and the runtime copes
  error,   ///< something failed for good
  off,     ///< of a component: it tells nothing. No record has this level
};

/// "trace", "debug", "info", "warning", "error", "off".
[[nodiscard]] TROPILLA_API std::string_view to_string(log_level level) noexcept;
/// The level of that name; empty for any other word.
[[nodiscard]] TROPILLA_API std::optional<log_level> log_level_from_name(std::string_view name) noexcept;

/// One record of the log. It is valid during the call of the sink.
struct log_record {
  std::chrono::system_clock::time_point time;
  log_level level = log_level::info;
  std::string_view component;
  /// One sentence. It may quote what a file says of itself (a model's name), so it may have control characters and need
  /// not be UTF-8.
  std::string_view message;
};

/// Called on a thread that the runtime has for it, one record after the other, so nothing that computes waits for it.
///
/// A sink that throws loses that record and nothing else. Behind a slow one up to 1024 records wait; then the oldest
/// are dropped, and a warning says how many. Closing the runtime waits until the sink has had all that wait. The sink
/// must not call the runtime: records come until it is closed, and one may come when half of it is gone.
using log_sink = std::function<void(const log_record&)>;

struct component_level {
  std::string component; ///< one of `log_components`
  log_level level = log_level::info;
};

struct log_options {
  log_sink sink{};                           ///< empty: nothing is logged, and no thread is started for it
  log_level level = log_level::info;         ///< records below it are not logged
  std::vector<component_level> components{}; ///< other levels by component; of two for one component the last counts
};

/// Names of the components of a runtime, "runtime" first.
[[nodiscard]] TROPILLA_API std::span<const std::string_view> log_components() noexcept;

} // namespace tropilla
