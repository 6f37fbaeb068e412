// A arbiter's numbers as rows.
#include "app/memory_table.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::app;

namespace {

memory_report report(std::string device) {
  memory_report m;
  m.device = std::move(device);
  m.budget_bytes = 300 << 20;
  m.in_use_bytes = 200 << 20;
  m.peak_bytes = 250 << 20;
  m.purposes = {{"weights", 150 << 20, 160 << 20}, {"KV pages", 50 << 20, 90 << 20}};
  return m;
}

} // namespace

TEST_CASE("the memory table has a row for each device and one for each of its purposes") {
  memory_report busy = report("host:0");
  busy.fragmentation = 0.125;
  busy.waiters = 2;
  busy.waiting_bytes = 3 << 20;
  const std::vector<memory_report> devices{busy, report("cuda:0")};
  CHECK(memory_table(devices).aligned() == R"(device         budget     in use       peak  fragmentation        waiters
host:0      300.0 MiB  200.0 MiB  250.0 MiB          12.5%  2 for 3.0 MiB
  weights              150.0 MiB  160.0 MiB
  KV pages              50.0 MiB   90.0 MiB
cuda:0      300.0 MiB  200.0 MiB  250.0 MiB           0.0%              0
  weights              150.0 MiB  160.0 MiB
  KV pages              50.0 MiB   90.0 MiB
)");
}

TEST_CASE("the pages that there are bytes for are a line, and each move of memory is one") {
  load_report load;
  load.pages_in_use = 12;
  load.pages_cached = 30;
  load.page_limit = 128;
  CHECK(flow_lines(load) == "KV pages: 12 in use and 30 cached, of 128 that there are bytes for");
  load.moves = {{3.25, 0.051, 4096, 32 << 20, "16 sequences want 96 pages"}, {60, 0.002, 256, 0, "they ended"}};
  CHECK(flow_lines(load) == "KV pages: 12 in use and 30 cached, of 128 that there are bytes for\n"
                            "3.2 s ago, in 0.051 s: pages for 4096 tokens, 32.0 MiB streamed per step: 16 sequences "
                            "want 96 pages\n"
                            "60.0 s ago, in 0.002 s: pages for 256 tokens, 0 B streamed per step: they ended");
}

TEST_CASE("what left the devices is a line, where anything has") {
  load_report load;
  load.store.host_pages = 40;
  load.store.disk_pages = 120;
  load.store.host_bytes = 32 << 20;
  load.store.disk_bytes = 80 << 20;
  load.store.saved = 140;
  load.store.restored = 60;
  CHECK(flow_lines(load) == "KV pages: 0 in use and 0 cached, of 0 that there are bytes for\n"
                            "KV store: 40 pages in 32.0 MiB of memory, 120 in 80.0 MiB on the disk; 140 saved and 60 "
                            "restored so far");
}

TEST_CASE("budgets are a line for each device") {
  const std::vector<memory_report> devices{report("host:0"), report("cuda:0")};
  CHECK(budget_lines(devices) ==
        "host:0: budget 300.0 MiB, 200.0 MiB in use\ncuda:0: budget 300.0 MiB, 200.0 MiB in use");
  CHECK(budget_lines({}).empty());
}
