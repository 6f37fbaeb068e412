// Reads hwloc's objects and brings them into order.
#include "kernels/host/topology.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <hwloc.h>
#include <initializer_list>
#include <memory>
#include <set>
#include <type_traits>
#include <unistd.h>
#include <utility>

namespace tropilla::host {
namespace {

using topology_handle = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, decltype(&hwloc_topology_destroy)>;
using bitmap_handle = std::unique_ptr<std::remove_pointer_t<hwloc_bitmap_t>, decltype(&hwloc_bitmap_free)>;

constexpr std::initializer_list<hwloc_obj_type_t> described{HWLOC_OBJ_PACKAGE, HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE,
                                                            HWLOC_OBJ_L3CACHE};

/// Loads the topology of this machine, or of the one that `synthetic` describes; null where hwloc can't. Two things
/// would make it slow: CPUID on every unit in turn, to which it would move this thread (8 to 20 ms with 2 units,
/// instead of 0.2), and caches, with thirty files for each unit.
topology_handle load(topology_detail detail, const std::string& synthetic, unsigned long more_flags = 0) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0)
    return {nullptr, hwloc_topology_destroy};
  topology_handle t(raw, hwloc_topology_destroy);
  const unsigned long flags = HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING | HWLOC_TOPOLOGY_FLAG_NO_DISTANCES |
                              HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS | more_flags;
  bool ready = synthetic.empty() || hwloc_topology_set_synthetic(t.get(), synthetic.c_str()) == 0;
  ready = ready && hwloc_topology_set_flags(t.get(), flags) == 0 &&
          hwloc_topology_set_all_types_filter(t.get(), HWLOC_TYPE_FILTER_KEEP_NONE) == 0 &&
          hwloc_topology_set_type_filter(t.get(), HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL) == 0;
  if (detail == topology_detail::all) {
    for (const auto type : described)
      ready = ready && hwloc_topology_set_type_filter(t.get(), type, HWLOC_TYPE_FILTER_KEEP_ALL) == 0;
    // NUMA nodes that are not whole packages need these groups to have cores of their own.
    ready = ready && hwloc_topology_set_type_filter(t.get(), HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE) == 0;
  }
  if (!ready || hwloc_topology_load(t.get()) != 0)
    t.reset();
  return t;
}

/// Loads a flat topology where hwloc can't say how units form cores: as many units as are configured.
topology_handle load_flat() {
  return load(topology_detail::cores, fmt::format("pu:{}", std::max(1L, sysconf(_SC_NPROCESSORS_CONF))),
              HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM); // for which hwloc knows the process's mask
}

bitmap_handle mask_of(hwloc_topology_t t, const topology_source& source) {
  bitmap_handle mask(hwloc_bitmap_alloc(), hwloc_bitmap_free);
  if (!mask)
    return mask;
  for (const int unit : source.allowed)
    hwloc_bitmap_set(mask.get(), static_cast<unsigned>(unit));
  if (source.allowed.empty())
    hwloc_bitmap_copy(mask.get(), hwloc_topology_get_topology_cpuset(t));
  if (source.synthetic.empty()) // of the first thread, whose number is the process's
    hwloc_get_proc_cpubind(t, getpid(), mask.get(), HWLOC_CPUBIND_THREAD);
  return mask;
}

/// Lists the units of `mask`, one of each core first.
void read_units(hwloc_topology_t t, hwloc_const_bitmap_t mask, topology& out) {
  std::set<hwloc_obj_t> cores;
  std::vector<int> first, siblings;
  for (int unit = hwloc_bitmap_first(mask); unit >= 0; unit = hwloc_bitmap_next(mask, unit)) {
    auto* const object = hwloc_get_pu_obj_by_os_index(t, static_cast<unsigned>(unit));
    auto* const core = object == nullptr ? nullptr : hwloc_get_ancestor_obj_by_type(t, HWLOC_OBJ_CORE, object);
    (core == nullptr || cores.insert(core).second ? first : siblings).push_back(unit);
  }
  if (first.empty())
    return;
  out.cores = first.size();
  out.units = std::move(first);
  out.units.insert(out.units.end(), siblings.begin(), siblings.end());
}

void read_caches(hwloc_topology_t t, hwloc_const_bitmap_t mask, topology& out) {
  for (const auto type : described)
    for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_type(t, type, o)) != nullptr;) {
      if (!hwloc_bitmap_intersects(o->cpuset, mask))
        continue;
      if (type == HWLOC_OBJ_PACKAGE) {
        ++out.packages;
        if (const char* name = hwloc_obj_get_info_by_name(o, "CPUModel"); name != nullptr)
          out.processor = name;
        continue;
      }
      const cache_level found{o->attr->cache.depth, o->attr->cache.size, 1};
      const auto known = std::ranges::find_if(
          out.caches, [&](const cache_level& c) { return c.level == found.level && c.bytes == found.bytes; });
      if (known == out.caches.end())
        out.caches.push_back(found);
      else
        ++known->count;
    }
  std::ranges::sort(out.caches, {}, [](const cache_level& c) { return std::pair(c.level, c.bytes); });
}

void read_nodes(hwloc_topology_t t, topology& out) {
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_NUMANODE, o)) != nullptr;) {
    numa_node n{o->os_index, o->attr->numanode.local_memory, 0};
    n.cores = static_cast<std::size_t>(
        std::count_if(out.units.begin(), out.units.begin() + static_cast<std::ptrdiff_t>(out.cores),
                      [&](int unit) { return hwloc_bitmap_isset(o->cpuset, static_cast<unsigned>(unit)); }));
    out.nodes.push_back(n);
  }
  std::ranges::sort(out.nodes, {}, &numa_node::index);
}

} // namespace

topology units_from(topology cpus, std::size_t first) {
  const auto at = static_cast<std::ptrdiff_t>(first % cpus.units.size());
  std::rotate(cpus.units.begin(), cpus.units.begin() + at, cpus.units.end());
  return cpus;
}

topology read_topology(topology_detail detail, const topology_source& source) {
  topology out;
  const bool own = source.synthetic.empty();
  auto t = load(detail, source.synthetic);
  const bool known = t && (!own || hwloc_topology_is_thissystem(t.get()));
  if (!known)
    t = load_flat();
  if (!t)
    return out;
  const auto mask = mask_of(t.get(), source);
  if (!mask)
    return out;
  read_units(t.get(), mask.get(), out);
  if (known && detail == topology_detail::all) {
    read_caches(t.get(), mask.get(), out);
    read_nodes(t.get(), out);
  }
  return out;
}

} // namespace tropilla::host
