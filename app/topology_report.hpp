/// Describes the cores, caches and NUMA nodes of the host, for people and for programs.
#pragma once

#include "kernels/host/topology.hpp"

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace tropilla::app {

/// Lines for people about the units of `cpus` (read with all details), of which `threads` compute by default. What the
/// system does not say is left out.
[[nodiscard]] std::string topology_lines(const host::topology& cpus, std::size_t threads);

/// The same: packages, cores, units (cores and their SMT siblings), threads, caches, numa_nodes.
[[nodiscard]] nlohmann::ordered_json topology_json(const host::topology& cpus, std::size_t threads);

} // namespace tropilla::app
