// Lists devices and purposes as rows of a table.
#include "app/memory_table.hpp"

#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"

#include <fmt/format.h>

namespace tropilla::app {
namespace {

std::string waiters_of(const memory_report& m) {
  return m.waiters == 0 ? "0" : fmt::format("{} for {}", m.waiters, format_bytes(m.waiting_bytes));
}

} // namespace

table memory_table(std::span<const memory_report> devices) {
  table t;
  t.columns = {{"device"},     {"budget", true},        {"in use", true},
               {"peak", true}, {"fragmentation", true}, {"waiters", true}};
  for (const memory_report& m : devices) {
    t.rows.push_back({m.device, format_bytes(m.budget_bytes), format_bytes(m.in_use_bytes), format_bytes(m.peak_bytes),
                      fmt::format("{:.1f}%", m.fragmentation * 100), waiters_of(m)});
    for (const purpose_report& p : m.purposes)
      t.rows.push_back({"  " + p.purpose, "", format_bytes(p.in_use_bytes), format_bytes(p.peak_bytes), "", ""});
  }
  return t;
}

std::string budget_lines(std::span<const memory_report> devices) {
  std::string text;
  for (const memory_report& m : devices)
    text += fmt::format("{}{}: budget {}, {} in use", text.empty() ? "" : "\n", m.device, format_bytes(m.budget_bytes),
                        format_bytes(m.in_use_bytes));
  return text;
}

} // namespace tropilla::app
