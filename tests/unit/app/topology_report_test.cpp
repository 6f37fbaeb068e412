// What `tropilla devices` says of machines that hwloc makes up.
#include "app/topology_report.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using host::read_topology;
using host::topology_detail;

namespace {

const host::topology_source two_sockets{"package:2 numa:1(memory=64GiB) l3:2(size=32MiB) core:4 l2:1(size=1MiB) "
                                        "l1d:1(size=48KiB) pu:2",
                                        {}};

} // namespace

TEST_CASE("two sockets are described in three lines") {
  const auto cpus = read_topology(topology_detail::all, two_sockets);
  CHECK(app::topology_lines(cpus, 16) == "cores: 16 on 2 packages, and 16 SMT siblings; computes with 16 threads\n"
                                         "caches: L1 16 x 48.0 KiB, L2 16 x 1.0 MiB, L3 4 x 32.0 MiB\n"
                                         "NUMA nodes: 0 with 64.0 GiB and 8 cores, 1 with 64.0 GiB and 8 cores\n");
  CHECK(app::topology_lines(cpus, 1).starts_with("cores: 16 on 2 packages, and 16 SMT siblings; computes with 1 "
                                                 "thread, as many as the control group's CPU quota"));
}

TEST_CASE("what the system does not say is left out") {
  host::topology cpus;
  cpus.units = {3};
  CHECK(app::topology_lines(cpus, 1) == "cores: 1; computes with 1 thread\n");
  CHECK(app::topology_json(cpus, 1).dump() ==
        R"({"packages":0,"cores":1,"units":1,"threads":1,"caches":[],"numa_nodes":[]})");
}

TEST_CASE("programs get the numbers that people get") {
  const auto out = app::topology_json(read_topology(topology_detail::all, two_sockets), 12);
  CHECK(out["packages"] == 2);
  CHECK(out["cores"] == 16);
  CHECK(out["units"] == 32);
  CHECK(out["threads"] == 12);
  CHECK(out["caches"].dump() == R"([{"level":1,"bytes":49152,"count":16},{"level":2,"bytes":1048576,"count":16},)"
                                R"({"level":3,"bytes":33554432,"count":4}])");
  CHECK(out["numa_nodes"].dump() == R"([{"node":0,"memory_bytes":68719476736,"cores":8},)"
                                    R"({"node":1,"memory_bytes":68719476736,"cores":8}])");
}
