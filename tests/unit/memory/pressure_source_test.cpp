// What says that memory is short: which files are watched, what is asked of them, and what their events mean.
#include "memory/pressure_source.hpp"
#include "tests/support/file_tree.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

using namespace tropilla;
using namespace std::chrono_literals;
using testing::file_tree;

namespace {

/// A machine, and the group "a" of version 2 in it.
struct machine {
  machine(int version, const std::map<std::string, std::string>& files) : tree(files) {
    tree.write("cgroup", version == 2 ? "0::/a\n" : "4:memory:/a\n");
    tree.write("mountinfo", "30 24 0:26 / " + (tree / "fs").string() + " rw - cgroup2 cgroup2 rw\n" + "31 24 0:27 / " +
                                (tree / "v1").string() + " rw - cgroup cgroup rw,memory\n");
  }
  /// Files that report `events` once, each.
  [[nodiscard]] pressure_files files() {
    return {tree / "pressure", {tree / "cgroup", tree / "mountinfo"}, [this](std::span<pollfd> polled, int timeout_ms) {
              timeouts.push_back(timeout_ms);
              for (std::size_t i = 1; i < polled.size() && i <= events.size(); ++i)
                polled[i].revents = events[i - 1];
              events.clear();
              return 1;
            }};
  }
  [[nodiscard]] std::string text(const char* path) const {
    std::ifstream in(tree / path);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  file_tree tree;
  std::vector<short> events; ///< of the watched files
  std::vector<int> timeouts;
};

constexpr short stall = POLLPRI;

} // namespace

TEST_CASE("stalls of the group and of the machine are asked for, and each is pressure") {
  machine m(2,
            {{"pressure", ""}, {"fs/a/memory.pressure", ""}, {"fs/a/memory.events", "low 1\nhigh 3\nmax 0\noom 0\n"}});
  pressure_source source(m.files());
  CHECK(source.notices().empty());
  CHECK(source.watches_any());
  CHECK(m.text("pressure") == "some 150000 1000000");
  CHECK(m.text("fs/a/memory.pressure") == "some 150000 1000000");
  CHECK_FALSE(source.wait(std::nullopt));
  for (const std::vector<short>& events : {std::vector<short>{stall}, {0, 0, stall}}) {
    m.events = events;
    CHECK(source.wait(1s));
    CHECK_FALSE(source.wait(1s));
  }
  m.events = {POLLIN, POLLIN, POLLIN}; // as they always are
  CHECK_FALSE(source.wait(1s));
  CHECK(m.timeouts.front() == -1);
  CHECK(m.timeouts.back() == 1000);
}

TEST_CASE("a group that had to give memory back is under pressure, whichever of its limits it was") {
  machine m(2, {{"fs/a/memory.events", "low 1\nhigh 3\nmax 2\noom 0\n"}});
  pressure_source source(m.files());
  CHECK(source.watches_any());
  CHECK_FALSE(source.wait(0ms));
  for (const auto* text : {"low 1\nhigh 4\nmax 2\n", "low 1\nhigh 4\nmax 9\n"}) {
    m.tree.write("fs/a/memory.events", text);
    CHECK(source.wait(0ms));
    CHECK_FALSE(source.wait(0ms));
  }
  m.tree.write("fs/a/memory.events", "low 7\nhigh 4\nmax 9\nhigh x\n");
  CHECK_FALSE(source.wait(0ms));
}

TEST_CASE("a file that has nothing to say any more is let go") {
  machine m(2, {{"pressure", ""}});
  pressure_source source(m.files());
  m.events = {static_cast<short>(POLLERR | POLLPRI)};
  CHECK_FALSE(source.wait(0ms));
  CHECK_FALSE(source.watches_any());
}

TEST_CASE("what can't be watched is said in a sentence each") {
  machine none(2, {{"fs/a/cgroup.procs", ""}});
  const pressure_source without(none.files());
  CHECK_FALSE(without.watches_any());
  REQUIRE(without.notices().size() == 1);
  CHECK_THAT(without.notices()[0], Catch::Contains("the machine's memory pressure can't be watched: there is no ") &&
                                       Catch::Contains("CONFIG_PSI"));

  machine old(1, {{"pressure", ""}, {"v1/a/memory.limit_in_bytes", ""}});
  const pressure_source of_old(old.files());
  CHECK(of_old.watches_any());
  REQUIRE(of_old.notices().size() == 1);
  CHECK_THAT(of_old.notices()[0], Catch::Contains("of version 1"));

  machine closed(2, {{"pressure/x", ""}, {"fs/a/memory.events", "high 0\n"}}); // a folder can't be opened to write
  const pressure_source of_closed(closed.files());
  CHECK(of_closed.watches_any());
  REQUIRE(of_closed.notices().size() == 2);
  CHECK_THAT(of_closed.notices()[0], Catch::EndsWith("/pressure: Is a directory"));
  CHECK_THAT(of_closed.notices()[1], Catch::Contains("the control group's memory pressure can't be watched: there is "
                                                     "no "));
}

TEST_CASE("a wait ends when it is woken, also before it begins") {
  machine m(2, {{"fs/a/memory.events", "high 0\n"}});
  auto files = m.files();
  files.poll = pressure_files{}.poll;
  pressure_source source(std::move(files));
  source.wake();
  CHECK_FALSE(source.wait(std::nullopt));
  std::thread other([&] { source.wake(); });
  CHECK_FALSE(source.wait(std::nullopt));
  other.join();
}

TEST_CASE("the real machine is watched, or says why not") {
  pressure_source source;
  CHECK((source.watches_any() || !source.notices().empty()));
  CHECK_FALSE(source.notices().size() > 2);
}
