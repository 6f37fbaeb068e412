// Host devices as a whole, and what they find out about the machine.
#include "kernels/device.hpp"
#include "kernels/host/cpu_features.hpp"
#include "tests/support/file_tree.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/mman.h>
#include <thread>
#include <vector>

using namespace tropilla;
using testing::file_tree;

namespace {

std::optional<double> limit_of(const file_tree& tree, const std::string& membership, const std::string& mounts) {
  tree.write("cgroup", membership);
  tree.write("mountinfo", mounts);
  return host::cgroup_cpu_limit({tree / "cgroup", tree / "mountinfo"});
}

} // namespace

TEST_CASE("the quota of a version 2 control group and of its ancestors is respected") {
  const file_tree tree(
      {{"fs/cpu.max", "max 100000\n"}, {"fs/a/cpu.max", "150000 100000\n"}, {"fs/a/b/cpu.max", "400000 100000\n"}});
  const auto mounts = "24 1 0:1 / / rw - ext4 /dev/vda rw\n30 24 0:26 / " + (tree / "fs").string() +
                      " rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
  CHECK(limit_of(tree, "0::/a/b\n", mounts) == Approx(1.5));
  CHECK(limit_of(tree, "0::/\n", mounts) == std::nullopt);
  CHECK(limit_of(tree, "0::/gone\n", mounts) == std::nullopt);
  // A container sees its own group as the root of the mount.
  const auto own = "30 24 0:26 /a " + (tree / "fs/a").string() + " rw - cgroup2 cgroup2 rw\n";
  CHECK(limit_of(tree, "0::/a/b\n", own) == Approx(1.5));
  CHECK(limit_of(tree, "0::/elsewhere\n", own) == Approx(1.5));
}

TEST_CASE("the quota of a version 1 control group is respected") {
  const file_tree tree({{"cpu/a/cpu.cfs_quota_us", "250000\n"},
                        {"cpu/a/cpu.cfs_period_us", "100000\n"},
                        {"cpu/b/cpu.cfs_quota_us", "-1\n"},
                        {"cpu/b/cpu.cfs_period_us", "100000\n"}});
  const auto mounts = "31 24 0:27 / " + (tree / "cpu").string() + " rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
                      "32 24 0:28 / " + (tree / "cpu").string() + " rw - cgroup cgroup rw,memory\n";
  CHECK(limit_of(tree, "5:memory:/a\n4:cpu,cpuacct:/a\n", mounts) == Approx(2.5));
  CHECK(limit_of(tree, "4:cpu,cpuacct:/b\n", mounts) == std::nullopt);
  CHECK(limit_of(tree, "5:memory:/a\n", mounts) == std::nullopt);
}

TEST_CASE("malformed descriptions of control groups limit nothing") {
  const file_tree tree(std::map<std::string, std::string>{{"fs/cpu.max", "soon"}});
  const auto mount = "30 24 0:26 / " + (tree / "fs").string() + " rw - cgroup2 cgroup2 rw\n";
  CHECK(limit_of(tree, "", "") == std::nullopt);
  CHECK(limit_of(tree, "0::/\n", mount) == std::nullopt);
  CHECK(limit_of(tree, "0\n::\n:::\n", "x y\n-\n\n" + mount) == std::nullopt);
  tree.write("fs/cpu.max", "100000 0");
  CHECK(limit_of(tree, "0::/\n", mount) == std::nullopt);
}

TEST_CASE("a process may use at least one core and no more than it is allowed") {
  const auto cpus = host::read_topology();
  CHECK(usable_cores() >= 1);
  CHECK(usable_cores() <= cpus.cores);
  CHECK(cpus.cores <= cpus.units.size());
  CHECK(make_host_device({})->workers() == usable_cores());
}

TEST_CASE("an instruction set is chosen, forced, or refused with a sentence") {
  CHECK(host::has_isa(host_isa()));
  CHECK(make_host_device({.threads = 1, .isa = "scalar"})->isa() == "scalar");
  CHECK_THROWS_WITH(make_host_device({.threads = 1, .isa = "mmx"}), Catch::Contains("unknown instruction set 'mmx'"));
  if (!host::has_isa("avx512"))
    CHECK_THROWS_WITH(make_host_device({.threads = 1, .isa = "avx512"}), Catch::Contains("this machine lacks"));
  try {
    (void)make_host_device({.threads = 5000});
    FAIL("5000 threads were accepted");
  } catch (const error& e) {
    CHECK(e.code() == errc::invalid_argument);
  }
}

TEST_CASE("a device reserves memory once and lends it for its life") {
  const auto d = make_host_device({.name = "host:7", .threads = 2});
  CHECK(d->name() == "host:7");
  const std::size_t bytes = std::size_t{1} << 36; // 64 GiB of addresses: pages are taken when written
  std::byte* const memory = d->reserve(bytes);
  REQUIRE(memory != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(memory) % 4096 == 0);
  memory[0] = memory[bytes - 1] = std::byte{1};
  CHECK_THROWS_AS(d->reserve(1), error);
}

TEST_CASE("pages are made ahead where it is asked for, hold zeros, and go back") {
  const auto dev = make_host_device({.threads = 1});
  constexpr std::size_t mib = std::size_t{1} << 20, page = 4096;
  auto* const begin = dev->reserve(16 * mib);
  const auto resident = [&](std::size_t from) { // pages of a MiB
    std::vector<unsigned char> pages(mib / page);
    REQUIRE(::mincore(begin + from, mib, pages.data()) == 0);
    return std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return (p & 1) != 0; });
  };
  REQUIRE(resident(8 * mib) == 0);
  dev->prefault(begin + 8 * mib, mib);
  if (resident(8 * mib) == 0) {
    WARN("the kernel makes no pages ahead (Linux before 5.14)");
    return;
  }
  CHECK(resident(8 * mib) == mib / page);
  CHECK(std::all_of(begin + 8 * mib, begin + 9 * mib, [](std::byte b) { return b == std::byte{0}; }));
  CHECK(resident(4 * mib) == 0);
  dev->trim(begin, 16 * mib);
  CHECK(resident(8 * mib) == 0);
}

TEST_CASE("a reservation that the system refuses is an error with the number") {
  const auto d = make_host_device({.threads = 1});
  CHECK_THROWS_WITH(d->reserve(std::size_t{1} << 62), Catch::Contains("4.0 EiB"));
}

TEST_CASE("compute jobs run on every worker, in order with the stream's events") {
  const auto d = make_host_device({.threads = 3});
  REQUIRE(d->workers() == 3);
  std::vector<std::byte> scratch(d->scratch_bytes(4, 64, 8) + 64);
  std::byte* const aligned = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64;
  d->set_scratch(aligned, d->scratch_bytes(4, 64, 8));
  std::vector<int> runs(3);
  std::vector<float> x(64, 2), y(64);
  const std::size_t row = 0;
  d->enqueue([&](ops& o) { ++runs[o.worker()]; });
  d->enqueue([&](ops& o) {
    ++runs[o.worker()];
    o.gather_rows(x.data(), 64, {&row, 1}, y.data());
  });
  const auto e = d->compute_stream().record();
  e.wait();
  CHECK(runs == std::vector<int>{2, 2, 2});
  CHECK(y == x);
}

TEST_CASE("a copy stream has a thread of its own and hands over through events") {
  const auto d = make_host_device({.threads = 2});
  const auto copies = d->make_stream("copies");
  int value = 0, seen = 0;
  copies->enqueue([&] { value = 42; });
  d->compute_stream().wait(copies->record());
  d->enqueue([&](ops& o) {
    if (o.worker() == 0)
      seen = value;
  });
  d->compute_stream().synchronize();
  CHECK(seen == 42);
}

TEST_CASE("activations and scratch have the sizes that their precision needs") {
  const auto d = make_host_device({.threads = 1});
  const auto p = make_host_device({.threads = 1, .precise = true});
  CHECK(d->activation_bytes(activation_kind::quantised, 8, 576) < d->activation_bytes(activation_kind::full, 8, 576));
  CHECK(d->activation_bytes(activation_kind::both, 1, 64) ==
        d->activation_bytes(activation_kind::quantised, 1, 64) + d->activation_bytes(activation_kind::full, 1, 64));
  for (const auto kind : {activation_kind::quantised, activation_kind::full, activation_kind::both})
    CHECK(p->activation_bytes(kind, 3, 100) == d->activation_bytes(activation_kind::full, 3, 100));
  CHECK_THROWS_AS(d->set_scratch(nullptr, 100), error);
}
