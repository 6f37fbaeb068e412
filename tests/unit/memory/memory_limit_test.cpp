// What the system's files say of memory, and what an arbiter may have of it.
#include "memory/memory_limit.hpp"
#include "tests/support/file_tree.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using testing::file_tree;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

/// A system of files: `written` below it, control groups mounted at "fs" (version 2) and "v1" (version 1).
memory_reading read(std::map<std::string, std::string> files, const std::string& membership,
                    const std::string& root = "/") {
  files.try_emplace("proc/meminfo",
                    "MemTotal:  8388608 kB\nMemAvailable: 4194304 kB\nSwapFree: 1024 kB\nSwapTotal: 2048 kB\n");
  files.try_emplace("proc/self/status", "Name:\tx\nVmSize:\t  102400 kB\nRssAnon:\t   2048 kB\nVmData:\t   51200 kB\n");
  files.try_emplace("proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\n"
                                        "Max data size             unlimited            unlimited            bytes\n"
                                        "Max stack size            8388608              unlimited            bytes\n"
                                        "Max address space         unlimited            unlimited            bytes\n");
  const file_tree tree(files);
  tree.write("cgroup", membership);
  tree.write("mountinfo", "30 24 0:26 " + root + " " + (tree / "fs").string() + " rw shared:4 - cgroup2 cgroup2 rw\n" +
                              "31 24 0:27 " + root + " " + (tree / "v1").string() + " rw - cgroup cgroup rw,memory\n");
  return memory_reader({tree / "proc", {tree / "cgroup", tree / "mountinfo"}}).read();
}

/// Bytes that are left in groups whose limit is that.
std::vector<std::size_t> left_in_groups(const memory_reading& reading) {
  std::vector<std::size_t> out;
  for (const auto& bound : reading.bounds)
    if (bound.who.find("control group") != std::string::npos)
      out.push_back(bound.left / mib);
  return out;
}

std::string bytes(std::size_t count) {
  return std::to_string(count * mib) + "\n";
}

} // namespace

TEST_CASE("without limits the available memory is what may be used") {
  const auto reading = read({}, "0::/\n");
  REQUIRE(reading.bounds.size() == 1);
  CHECK(reading.bounds[0].left == 4096 * mib);
  CHECK(reading.bounds[0].swap == mib);
  CHECK(reading.machine == 8194 * mib);
  CHECK(reading.anonymous == 2 * mib);
  CHECK(reading.thread_stack == 8 * mib);
  const auto limit = limit_of(reading, {96 * mib, 0});
  CHECK(limit.bytes == 4000 * mib);
  CHECK(limit.set_by == "the memory that the machine has available");
  CHECK(limit.addresses == unlimited);
}

TEST_CASE("limits of version 2 groups count, those above included, less what can't be reclaimed") {
  const std::map<std::string, std::string> files{
      {"fs/a/memory.max", bytes(300)},
      {"fs/a/memory.current", bytes(250)},
      {"fs/a/memory.stat", "anon 1\nfile 2\ninactive_file " + bytes(40) + "active_file " + bytes(10) +
                               "slab_reclaimable " + bytes(50) + "shmem 5\n"},
      {"fs/a/b/memory.max", "max\n"},
      {"fs/a/b/memory.current", bytes(1)},
      {"fs/a/b/c/memory.max", bytes(200)},
      {"fs/a/b/c/memory.high", bytes(180)},
      {"fs/a/b/c/memory.current", bytes(20)}};
  CHECK(left_in_groups(read(files, "0::/a/b/c\n")) == std::vector<std::size_t>{160, 150});
  CHECK(left_in_groups(read(files, "0::/a/b\n")) == std::vector<std::size_t>{150});
  CHECK(left_in_groups(read(files, "0::/\n")).empty());
  // A container sees its own group as the root of the mount.
  CHECK(left_in_groups(read({{"fs/memory.max", bytes(64)}, {"fs/memory.current", bytes(4)}}, "0::/x/y\n", "/x/y")) ==
        std::vector<std::size_t>{60});
  const auto limit = limit_of(read(files, "0::/a/b/c\n"), {24 * mib, 0});
  CHECK(limit.bytes == 126 * mib);
  CHECK_THAT(limit.set_by,
             Catch::StartsWith("the memory limit of 300.0 MiB of the control group ") && Catch::EndsWith("/fs/a"));
}

TEST_CASE("limits of version 1 groups count, those above included, less what can't be reclaimed") {
  const std::map<std::string, std::string> files{
      {"v1/memory.limit_in_bytes", "9223372036854771712\n"},
      {"v1/a/memory.limit_in_bytes", bytes(300)},
      {"v1/a/memory.usage_in_bytes", bytes(100)},
      {"v1/a/memory.stat", "inactive_file 1\ntotal_inactive_file " + bytes(20) + "total_active_file " + bytes(5)},
      {"v1/a/b/memory.limit_in_bytes", bytes(200)},
      {"v1/a/b/memory.usage_in_bytes", bytes(10)},
      {"v1/a/b/memory.stat", "inactive_file " + bytes(3)}};
  CHECK(left_in_groups(read(files, "4:memory:/a/b\n0::/\n")) == std::vector<std::size_t>{193, 225});
  CHECK(left_in_groups(read(files, "4:memory:/\n0::/\n")).empty());
  CHECK(left_in_groups(read(files, "4:cpu:/a\n0::/\n")).empty());
}

TEST_CASE("a group that uses more than its limit leaves nothing") {
  const auto reading = read({{"fs/memory.max", bytes(8)}, {"fs/memory.current", bytes(9)}}, "0::/\n");
  CHECK(limit_of(reading, {}).bytes == 0);
}

TEST_CASE("a limited address space counts what is mapped, and what the pool needs to place its last block") {
  const auto reading = read({{"proc/self/limits", "Max address space         524288000    unlimited     bytes\n"
                                                  "Max data size             209715200    unlimited     bytes\n"}},
                            "0::/\n");
  REQUIRE(reading.bounds.size() == 3);
  CHECK(reading.bounds[1].left == 400 * mib);
  CHECK(reading.bounds[2].left == 150 * mib);
  const auto limit = limit_of(reading, {0, 50 * mib});
  CHECK(limit.addresses == 100 * mib);
  CHECK(limit.set_by == "the limit of 200.0 MiB for data (ulimit -d)");
  CHECK(min_reservation(limit.bytes) <= limit.addresses);
  CHECK(min_reservation(limit.bytes + mib) > limit.addresses);
}

TEST_CASE("a kernel that never overcommits limits what is mapped") {
  const std::string promised = "MemAvailable: 4194304 kB\nCommitLimit: 1024000 kB\nCommitted_AS: 204800 kB\n";
  CHECK(read({{"proc/meminfo", promised}, {"proc/sys/vm/overcommit_memory", "0\n"}}, "").bounds.size() == 1);
  const auto reading = read({{"proc/meminfo", promised}, {"proc/sys/vm/overcommit_memory", "2\n"}}, "");
  REQUIRE(reading.bounds.size() == 2);
  CHECK(reading.bounds[1].left == 800 * mib);
}

TEST_CASE("what is malformed or absent limits nothing") {
  const memory_reader nothing({"/nonexistent", {"/nonexistent", "/nonexistent"}});
  CHECK(nothing.read().bounds.empty());
  const auto limit = limit_of(nothing.read(), {mib, mib});
  CHECK(limit.bytes == unlimited);
  CHECK(limit.set_by.empty());
  for (const std::string text : {"", "soon\n", "-1\n", "12x\n", "99999999999999999999999\n", "max\n"}) {
    INFO(text);
    CHECK(left_in_groups(read({{"fs/memory.max", text}, {"fs/memory.current", "1\n"}}, "0::/\n")).empty());
    CHECK(left_in_groups(read({{"v1/memory.limit_in_bytes", text}}, "4:memory:/\n")).empty());
    CHECK(read({{"proc/meminfo", "MemAvailable: " + text}, {"proc/self/limits", "Max data size " + text}}, "")
              .bounds.empty());
  }
  // A limit without a usage is a limit all the same.
  CHECK(left_in_groups(read({{"fs/memory.max", bytes(8)}, {"fs/memory.current", "?"}}, "0::/\n")) ==
        std::vector<std::size_t>{8});
}

TEST_CASE("files that are there and can't be read limit nothing, and throw nothing") {
  const file_tree tree({{"proc/meminfo/x", ""}, {"proc/self/status/x", ""}, {"proc/self/limits/x", ""}, {"fs/x", ""}});
  tree.write("cgroup", "0::/\n");
  tree.write("mountinfo", "30 24 0:26 / " + (tree / "fs").string() + " rw - cgroup2 cgroup2 rw\n");
  const auto reading = memory_reader({tree / "proc", {tree / "cgroup", tree / "mountinfo"}}).read();
  CHECK(reading.bounds.empty());
  CHECK(limit_of(reading, {mib, mib}).bytes == unlimited);
}

TEST_CASE("this machine says what it has, and no group's limit is taken for more than the machine") {
  const auto reading = memory_reader().read();
  REQUIRE_FALSE(reading.bounds.empty());
  CHECK(reading.anonymous > 0);
  const auto limit = limit_of(reading, {});
  CHECK(limit.bytes > 0);
  CHECK(limit.bytes <= reading.machine);
}
