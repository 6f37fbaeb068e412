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

/// "KV pages: 12 in use and 30 cached, of 128 that there are bytes for", and a line for each of the last moves of
/// memory between weights and pages, without a line end after the last.
[[nodiscard]] std::string flow_lines(const load_report& load);

/// "host:0: budget 500.0 MiB, 118.2 MiB in use", a line for each device, without a line end after the last.
[[nodiscard]] std::string budget_lines(std::span<const memory_report> devices);

} // namespace tropilla::app
