/// Shows people where a runtime's bytes are at one moment.
#pragma once

#include "app/table.hpp"
#include "tropilla/types.hpp"

#include <span>
#include <string>

namespace tropilla::app {

/// A row for each device: budget, bytes in use, peak, fragmentation, waiters; below it a row for each of its purposes:
/// bytes in use, peak.
[[nodiscard]] table memory_table(std::span<const memory_report> devices);

/// "host:0: budget 500.0 MiB, 118.2 MiB in use", a line for each device, without a line end after the last.
[[nodiscard]] std::string budget_lines(std::span<const memory_report> devices);

} // namespace tropilla::app
