/// Writes the runtime's log for the program: which records, in which form, and where.
#pragma once

#include "app/terminal.hpp"
#include "tropilla/error.hpp"
#include "tropilla/log.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla::app {

/// Parses the levels of --log-level: "info", "loader=debug", "info,loader=debug". Components that are not named have
/// the level that stands alone, or tell nothing where none does. The sink is left empty. Throws `error`
/// (invalid_argument).
[[nodiscard]] log_options parse_log_levels(std::string_view text);

/// A record as a line without its end: local time, level, component and sentence. Characters that could steer a
/// terminal, and bytes that are not UTF-8, are escaped.
[[nodiscard]] std::string log_line(const log_record& record, const terminal_facts& terminal);
/// A record as a JSON object in one line, without its end: "time" (UTC, ISO 8601), "level", "component", "message".
/// Bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string log_json(const log_record& record);

/// --log-level, --log-json and --log-file. Each alone asks for a log, of level info.
struct log_settings {
  std::optional<log_options> levels;
  bool json = false;
  std::string file;

  [[nodiscard]] bool wanted() const { return levels || json || !file.empty(); }
  /// Whether the log already shows the runtime's warnings on the screen.
  [[nodiscard]] bool shows_warnings() const;
  /// Makes the options for `runtime_config::log`: records go to the end of the file, or else to standard error.
  /// `status` is kept. Throws `error` (io_error) when the file can't be opened.
  [[nodiscard]] log_options open(const std::shared_ptr<status_line>& status) const;
};

} // namespace tropilla::app
