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

std::string flow_lines(const load_report& load) {
  std::string text = fmt::format("KV pages: {} in use and {} cached, of {} that there are bytes for", load.pages_in_use,
                                 load.pages_cached, load.page_limit);
  if (const auto& s = load.store; s.disk_pages > 0 || s.saved > 0)
    text += fmt::format("\nKV store: {} pages in {} of memory, {} in {} on the disk; {} saved and {} restored so far",
                        s.host_pages, format_bytes(s.host_bytes), s.disk_pages, format_bytes(s.disk_bytes), s.saved,
                        s.restored);
  for (const memory_move_report& m : load.moves)
    text += fmt::format("\n{:.1f} s ago, in {:.3f} s: pages for {} tokens, {} streamed per step: {}", m.seconds_ago,
                        m.seconds, m.kv_tokens, format_bytes(m.streamed_bytes), m.reason);
  return text;
}

std::string budget_lines(std::span<const memory_report> devices) {
  std::string text;
  for (const memory_report& m : devices)
    text += fmt::format("{}{}: budget {}, {} in use", text.empty() ? "" : "\n", m.device, format_bytes(m.budget_bytes),
                        format_bytes(m.in_use_bytes));
  return text;
}

} // namespace tropilla::app
