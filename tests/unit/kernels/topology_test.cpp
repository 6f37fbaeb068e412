// Cores, SMT siblings, caches and NUMA nodes of machines that hwloc makes up, and of the one below.
#include "kernels/host/cpu_features.hpp"
#include "kernels/host/host_device.hpp"
#include "kernels/host/topology.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <sched.h>
#include <string>
#include <thread>
#include <unistd.h>

using namespace tropilla;
using host::read_topology;
using host::topology_detail;

namespace {

std::vector<int> first_thread_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  REQUIRE(sched_getaffinity(getpid(), sizeof mask, &mask) == 0);
  std::vector<int> units;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(static_cast<std::size_t>(i), &mask))
      units.push_back(i);
  return units;
}

std::vector<int> sorted(std::vector<int> units) {
  std::ranges::sort(units);
  return units;
}

/// A variable of the environment, for as long as this lives.
class variable {
public:
  variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~variable() { unsetenv(name_); }
  variable(const variable&) = delete;
  variable& operator=(const variable&) = delete;

private:
  const char* name_;
};

} // namespace

TEST_CASE("one unit of each core comes first, then the SMT siblings") {
  // Numbered as Linux does on most machines: siblings are 4 apart.
  const auto t = read_topology(topology_detail::cores, {"core:4 pu:2(indexes=0,4,1,5,2,6,3,7)", {}});
  CHECK(t.cores == 4);
  CHECK(t.units == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
  const auto neighbours = read_topology(topology_detail::cores, {"core:4 pu:2", {}});
  CHECK(neighbours.cores == 4);
  CHECK(neighbours.units == std::vector<int>{0, 2, 4, 6, 1, 3, 5, 7});
}

TEST_CASE("only the units that a process may run on count") {
  const auto t = read_topology(topology_detail::all, {"numa:2 core:4 pu:2", {3, 2, 7, 8, 14}});
  CHECK(t.units == std::vector<int>{2, 7, 8, 14, 3});
  CHECK(t.cores == 4);
  REQUIRE(t.nodes.size() == 2);
  CHECK(t.nodes[0].cores == 2);
  CHECK(t.nodes[1].cores == 2);
}

TEST_CASE("two sockets have their caches, nodes and memory") {
  const auto t = read_topology(topology_detail::all, {"package:2 numa:1(memory=4GiB) l3:2(size=32MiB) core:4 "
                                                      "l2:1(size=1MiB) l1d:1(size=48KiB) pu:2",
                                                      {}});
  CHECK(t.packages == 2);
  CHECK(t.cores == 16);
  CHECK(t.units.size() == 32);
  REQUIRE(t.caches.size() == 3);
  const std::size_t sizes[] = {std::size_t{48} << 10, std::size_t{1} << 20, std::size_t{32} << 20};
  const std::size_t counts[] = {16, 16, 4};
  for (unsigned i = 0; i < 3; ++i) {
    CHECK(t.caches[i].level == i + 1);
    CHECK(t.caches[i].bytes == sizes[i]);
    CHECK(t.caches[i].count == counts[i]);
  }
  REQUIRE(t.nodes.size() == 2);
  for (unsigned i = 0; i < 2; ++i) {
    CHECK(t.nodes[i].index == i);
    CHECK(t.nodes[i].memory_bytes == std::size_t{4} << 30);
    CHECK(t.nodes[i].cores == 8);
  }
  // One core of the second package: what the others have is not this process's.
  const auto one = read_topology(topology_detail::all, {"package:2 l3:2(size=32MiB) core:4 pu:2", {17, 16}});
  CHECK(one.packages == 1);
  CHECK(one.cores == 1);
  REQUIRE(one.caches.size() == 1);
  CHECK(one.caches[0].count == 1);
}

TEST_CASE("a machine that nobody can describe has the units of the process, each a core") {
  const auto t = read_topology(topology_detail::all, {"no such:words", {}});
  CHECK(sorted(t.units) == first_thread_mask());
  CHECK(t.cores == t.units.size());
  CHECK(t.caches.empty());
  CHECK(t.nodes.empty());
}

TEST_CASE("the mask is the process's, whatever thread asks") {
  const auto all = read_topology();
  CHECK(sorted(all.units) == first_thread_mask());
  host::topology seen;
  std::thread([&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(static_cast<std::size_t>(all.units.back()), &mask);
    REQUIRE(sched_setaffinity(0, sizeof mask, &mask) == 0); // of this thread
    seen = read_topology();
  }).join();
  CHECK(seen.units == all.units);
  CHECK(seen.cores == all.cores);
}

TEST_CASE("reading the topology leaves the thread where it may run") {
  cpu_set_t before, after;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  (void)read_topology(topology_detail::all);
  REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&before, &after));
}

TEST_CASE("a topology that the environment makes up is not this machine's") {
  const auto own = sorted(read_topology().units);
  {
    const variable fake("HWLOC_SYNTHETIC", "package:4 core:16 pu:2");
    const auto t = read_topology(topology_detail::all);
    CHECK(sorted(t.units) == own);
    CHECK(t.cores <= own.size());
    CHECK(t.caches.empty());
    CHECK(t.nodes.empty());
    CHECK(make_host_device({})->workers() <= own.size());
  }
  {
    const variable fake("HWLOC_SYNTHETIC", "package:4 core:16 pu:2"), claim("HWLOC_THISSYSTEM", "1");
    CHECK(sorted(read_topology().units) == own); // units of the mask all the same
  }
  {
    const variable none("HWLOC_COMPONENTS", "stop"); // loading fails
    CHECK(sorted(read_topology().units) == own);
  }
  const variable missing("HWLOC_XMLFILE", "/nonexistent/topology.xml");
  CHECK(sorted(read_topology().units) == own);
}

TEST_CASE("a device takes the cores that it is told of") {
  const auto t = read_topology(topology_detail::cores, {"core:3 pu:2", {}});
  CHECK(host::usable_cores(t) >= 1);
  CHECK(host::usable_cores(t) <= 3);
  host::topology one;
  one.units = {read_topology().units.back()};
  CHECK(host::host_device({}, one).workers() == 1);
}
