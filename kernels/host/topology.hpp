/// Reads the cores, caches and NUMA nodes that this process may use, as hwloc finds them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tropilla::host {

/// Data and unified caches of one level and size, as far as the process's cores are behind them.
struct cache_level {
  unsigned level = 1;
  std::size_t bytes = 0; ///< of one
  std::size_t count = 0;
};

/// A NUMA node that has one of the process's cores, or memory alone.
struct numa_node {
  unsigned index = 0; ///< as the system numbers it
  std::size_t memory_bytes = 0;
  std::size_t cores = 0; ///< that the process may use
};

/// The processing units that the process may use. Where the system does not say how units form cores, each counts as
/// one.
struct topology {
  /// Processing units, as the system numbers them: one of each core first (in ascending order), then their SMT
  /// siblings. Never empty.
  std::vector<int> units{0};
  std::size_t cores = 1; ///< different ones among `units`
  // The fields from here on are read with topology_detail::all, and only as far as the system says.
  std::string processor; ///< the model's name
  std::size_t packages = 0;
  std::vector<cache_level> caches; ///< by level, then size
  std::vector<numa_node> nodes;    ///< ascending
};

/// `cores` reads three files of the system for each unit (0.2 ms in all with 2 of them), `all` reads thirty.
enum class topology_detail { cores, all };

/// Tests describe a machine of their own: `synthetic` in hwloc's words ("package:2 core:4 pu:2"), on which the process
/// may use the units `allowed` (empty: all).
struct topology_source {
  std::string synthetic;
  std::vector<int> allowed;
};

/// Reads the topology. The affinity mask of the process's first thread counts, whichever thread asks, because threads
/// of a team are pinned. The environment's HWLOC_SYNTHETIC and HWLOC_XMLFILE, which show programs another machine, are
/// ignored, unless HWLOC_THISSYSTEM=1 says that it is this one. Any thread; does not throw for what the system hides.
[[nodiscard]] topology read_topology(topology_detail detail = topology_detail::cores,
                                     const topology_source& source = {});

/// The same units, from number `first` on, and round to those before: devices that have their threads' numbers of units
/// one after another have cores of their own, as far as there are so many.
[[nodiscard]] topology units_from(topology cpus, std::size_t first);

} // namespace tropilla::host
