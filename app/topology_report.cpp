// Writes a topology in words, and as JSON.
#include "app/topology_report.hpp"

#include "memory/bytes.hpp"

#include <fmt/format.h>
#include <string_view>
#include <vector>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

std::string counted(std::size_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

} // namespace

std::string topology_lines(const host::topology& cpus, std::size_t threads) {
  std::string out = "cores: " + std::to_string(cpus.cores);
  if (cpus.packages > 1)
    out += fmt::format(" on {}", counted(cpus.packages, "package"));
  if (const std::size_t siblings = cpus.units.size() - cpus.cores; siblings > 0)
    out += fmt::format(", and {}", counted(siblings, "SMT sibling"));
  out += fmt::format("; computes with {}", counted(threads, "thread"));
  if (threads < cpus.cores)
    out += ", as many as the control group's CPU quota runs at a time";
  out += '\n';
  std::vector<std::string> items;
  for (const auto& c : cpus.caches)
    items.push_back(fmt::format("L{} {} x {}", c.level, c.count, format_bytes(c.bytes)));
  if (!items.empty())
    out += fmt::format("caches: {}\n", fmt::join(items, ", "));
  items.clear();
  for (const auto& n : cpus.nodes)
    items.push_back(fmt::format("{} with {} and {}", n.index, format_bytes(n.memory_bytes), counted(n.cores, "core")));
  if (!items.empty())
    out += fmt::format("NUMA nodes: {}\n", fmt::join(items, ", "));
  return out;
}

json topology_json(const host::topology& cpus, std::size_t threads) {
  json caches = json::array(), nodes = json::array();
  for (const auto& c : cpus.caches)
    caches.push_back({{"level", c.level}, {"bytes", c.bytes}, {"count", c.count}});
  for (const auto& n : cpus.nodes)
    nodes.push_back({{"node", n.index}, {"memory_bytes", n.memory_bytes}, {"cores", n.cores}});
  return {{"packages", cpus.packages}, {"cores", cpus.cores}, {"units", cpus.units.size()},
          {"threads", threads},        {"caches", caches},    {"numa_nodes", nodes}};
}

} // namespace tropilla::app
