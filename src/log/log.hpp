/// Loggers through which the code of a runtime says what it does. spdlog behind them has the queue, the thread and the
/// levels.
#pragma once

#include "tropilla/log.hpp"

#include <cstddef>
#include <cstdint>
#include <fmt/format.h>
#include <memory>

namespace tropilla_spdlog { // as spdlog is named within the library: src/CMakeLists.txt
class logger;
}

namespace tropilla {

/// In the order of `log_components`.
enum class log_component : std::uint8_t {
  runtime,    ///< opening, closing, sessions, notices
  supervisor, ///< actors that come, go and are replaced
  scheduler,  ///< requests
  memory,     ///< budgets, and requests that wait for bytes
  loader,     ///< weights on their way from files
  prefetcher, ///< the ring of streamed weights
  compute,    ///< steps and devices
  cache,      ///< packed weights on the disk
};

/// One component's log. A copy logs to the same. Any thread.
class logger {
public:
  /// Logs nothing.
  logger() = default;

  [[nodiscard]] bool wants(log_level level) const noexcept { return level >= min_; }

  /// Formats and queues a record; one that is not wanted costs a comparison. Arguments are evaluated all the same:
  /// costly ones belong behind `wants`.
  template <class... Values>
  void log(log_level level, fmt::format_string<Values...> text, Values&&... values) const noexcept {
    if (wants(level))
      write(level, text, fmt::make_format_args(values...));
  }
  template <class... Values>
  void trace(fmt::format_string<Values...> text, Values&&... values) const noexcept {
    log(log_level::trace, text, std::forward<Values>(values)...);
  }
  template <class... Values>
  void debug(fmt::format_string<Values...> text, Values&&... values) const noexcept {
    log(log_level::debug, text, std::forward<Values>(values)...);
  }
  template <class... Values>
  void info(fmt::format_string<Values...> text, Values&&... values) const noexcept {
    log(log_level::info, text, std::forward<Values>(values)...);
  }
  template <class... Values>
  void warning(fmt::format_string<Values...> text, Values&&... values) const noexcept {
    log(log_level::warning, text, std::forward<Values>(values)...);
  }
  template <class... Values>
  void error(fmt::format_string<Values...> text, Values&&... values) const noexcept {
    log(log_level::error, text, std::forward<Values>(values)...);
  }

private:
  friend class logs;
  void write(log_level level, fmt::string_view text, fmt::format_args values) const noexcept;

  log_level min_ = log_level::off; ///< spdlog's level, here so that asking needs no call
  std::shared_ptr<tropilla_spdlog::logger> to_;
};

/// The loggers of one runtime and the thread that calls its sink. Loggers may outlive it, and log nothing then.
class logs {
public:
  /// Throws `error` (invalid_argument) for an unknown component.
  explicit logs(const log_options& options);
  /// Waits until the sink has had all records.
  ~logs();
  logs(const logs&) = delete;
  logs& operator=(const logs&) = delete;

  [[nodiscard]] logger of(log_component component) const;

private:
  struct impl;
  std::unique_ptr<impl> impl_; ///< null without a sink
};

/// Bytes in a message as people read them, "106.6 MiB", formatted only when the message is.
struct human_bytes {
  std::size_t bytes = 0;
};

} // namespace tropilla

template <>
struct fmt::formatter<tropilla::human_bytes> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  fmt::appender format(const tropilla::human_bytes& value, fmt::format_context& context) const;
};
