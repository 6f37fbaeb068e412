// A runtime whose budget follows the memory pressure of a machine made of files.
#include "runtime/runtime_impl.hpp"
#include "tests/support/file_tree.hpp"
#include "tests/support/tiny_runtime.hpp"
#include "tests/support/varied_replies.hpp"

#include <catch2/catch.hpp>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using namespace tropilla;
using namespace std::chrono_literals;
using testing::file_tree;

namespace {

/// A group whose counter rises when a test says so, looked at every millisecond.
struct pressed_machine {
  pressed_machine() {
    tree.write("cgroup", "0::/\n");
    tree.write("mountinfo", "30 24 0:26 / " + (tree / "fs").string() + " rw - cgroup2 cgroup2 rw\n");
    hooks.pressure = {tree / "pressure", {tree / "cgroup", tree / "mountinfo"}, [](std::span<pollfd> files, int) {
                        return ::poll(files.data(), files.size(), 1);
                      }};
    hooks.pace = {.steps = 32, .between_steps_down = 0s, .quiet = 20ms, .max_quiet = 20ms};
  }
  void press() { tree.write("fs/memory.events", "high " + std::to_string(++times) + "\n"); }

  file_tree tree{{{"fs/memory.events", "high 0\n"}}};
  runtime_hooks hooks;
  int times = 0;
};

runtime_config yielding_config() {
  auto config = testing::tiny_config(1, 128);
  config.model = testing::model_of_shape("mini", tensor_type::q4_0);
  config.sequences = 1;
  config.max_batch_tokens = 32; // what is not weights can't be given up
  config.yield_memory = true;
  return config;
}

std::size_t least_of(runtime_config config) {
  config.budget_bytes = 1;
  return runtime::plan(config).total_bytes;
}

std::size_t budget_of(const runtime_impl& rt) {
  return rt.arbiter->usage("host:0").budget;
}

} // namespace

TEST_CASE(
    "a budget goes down under pressure to what the runtime needs, up again afterwards, and replies stay the same") {
  auto config = yielding_config();
  const auto least = least_of(config);
  pressed_machine machine;
  runtime_impl rt(config, nullptr, machine.hooks);
  const auto top = budget_of(rt);
  const auto expected = testing::ids_of(*testing::ask_varied(rt, 0, 10, 60));
  const auto end = std::chrono::steady_clock::now() + 60s;
  auto lowest = top;
  while (lowest >= least + top / 32 && std::chrono::steady_clock::now() < end) {
    machine.press();
    std::this_thread::yield();
    lowest = std::min(lowest, budget_of(rt));
    CHECK(lowest >= least);
  }
  CHECK(lowest < least + top / 32);
  CHECK(lowest <= top - 3 * (top / 32));
  CHECK(rt.arbiter->usage("host:0").in_use <= top);
  CHECK(testing::ids_of(*testing::ask_varied(rt, 0, 10, 60)) == expected);
  while (budget_of(rt) != top && std::chrono::steady_clock::now() < end)
    std::this_thread::yield();
  CHECK(budget_of(rt) == top);
  CHECK(testing::ids_of(*testing::ask_varied(rt, 0, 10, 60)) == expected);
}

TEST_CASE("a budget that a client sets is what a runtime returns to") {
  auto config = yielding_config();
  pressed_machine machine;
  runtime_impl rt(config, nullptr, machine.hooks);
  const auto top = budget_of(rt), mine = top - top / 16;
  const auto end = std::chrono::steady_clock::now() + 60s;
  const auto until = [&](auto holds, auto meanwhile) {
    while (!holds() && std::chrono::steady_clock::now() < end) {
      meanwhile();
      std::this_thread::yield();
    }
    CHECK(holds());
  };
  until([&] { return budget_of(rt) < top; }, [&] { machine.press(); });
  rt.set_budget(mine, "");
  until([&] { return budget_of(rt) < mine; }, [&] { machine.press(); });
  until([&] { return budget_of(rt) == mine; }, [] {});
  CHECK_THROWS_AS(rt.set_budget(1, ""), error);
  CHECK(budget_of(rt) == mine);
}

TEST_CASE("a runtime closes while its budget follows the pressure, also in the middle of a change") {
  const auto config = yielding_config();
  for (int i = 0; i < 20; ++i) {
    pressed_machine machine;
    std::shared_ptr<memory_arbiter> arbiter;
    {
      runtime_impl rt(config, nullptr, machine.hooks);
      arbiter = rt.arbiter;
      const auto top = budget_of(rt);
      machine.press();
      while (i % 2 == 0 && budget_of(rt) == top)
        std::this_thread::yield();
    }
    CHECK(arbiter->usage("host:0").in_use == 0);
  }
}

TEST_CASE("what a budget can't follow is a notice, and the budget stays") {
  auto config = yielding_config();
  std::mutex mutex;
  std::vector<std::string> notices;
  config.on_notice = [&](std::string_view sentence) {
    const std::lock_guard lock(mutex);
    notices.emplace_back(sentence);
  };
  pressed_machine machine;
  machine.hooks.pressure.groups.membership = machine.tree / "none";
  const runtime_impl rt(config, nullptr, machine.hooks);
  const std::lock_guard lock(mutex);
  REQUIRE(notices.size() == 2);
  CHECK_THAT(notices[0], Catch::StartsWith("the machine's memory pressure can't be watched: there is no "));
  CHECK(notices[1] == "no budget follows the memory pressure: nothing says when there is any");
}

TEST_CASE("without a device of the host there is one notice") {
  std::vector<std::string> notices;
  pressed_machine machine;
  {
    const memory_yielder none({.devices = {},
                               .files = machine.hooks.pressure,
                               .set_budget = [](std::size_t, const std::string&) { FAIL("there is no budget"); },
                               .notice = [&](std::string_view s) { notices.emplace_back(s); }});
    machine.press();
  }
  CHECK(notices == std::vector<std::string>{
                       "no budget follows the memory pressure: that is for devices of the host, and there are none"});
}
