// What the system lets a runtime use, as a test has it: no budget, shares, budgets above it, memory that is short
// later.
#include "runtime/runtime_impl.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <limits>

using namespace tropilla;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

program_needs needs_of(const runtime_config& config) {
  return needs_of_runtime(llama_config::read(gguf_file::open(config.model)).vocabulary, 0);
}

/// A system that leaves an arbiter so many bytes.
struct made_up_limit {
  std::atomic<std::size_t> left{unlimited / 2};
  std::size_t addresses = 0; ///< 0: as many as one likes

  void leave(const runtime_config& config, std::size_t bytes) { left = bytes + needs_of(config).written; }
  runtime_hooks hooks() {
    runtime_hooks out;
    out.read_memory = [this] {
      memory_reading now;
      now.bounds.push_back({memory_bound::counts::written, 0, left, "the test"});
      if (addresses > 0)
        now.bounds.push_back({memory_bound::counts::mapped, 0, addresses, "the addresses"});
      now.machine = std::size_t{64} << 30;
      return now;
    };
    return out;
  }
};

/// A runtime and what it said.
struct open_runtime {
  open_runtime(runtime_config config, made_up_limit& limit) {
    config.on_notice = [this](std::string_view sentence) { notices += std::string(sentence) + "\n"; };
    impl = std::make_shared<runtime_impl>(std::move(config), nullptr, limit.hooks());
  }
  [[nodiscard]] std::vector<token_id> reply(std::size_t tokens = 20) const {
    auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = tokens;
    o.ignore_eos = true;
    (void)impl->submit(impl->make_request({5, 6, 7, 8}, o, false, channel));
    return testing::ids_of(*channel);
  }
  void load() const {
    (void)cast::ask_role<cast::weights_resident>(*impl->system, *impl->shards.front()->compute, cast::await_weights{});
  }

  std::string notices;
  std::shared_ptr<runtime_impl> impl;
};

std::size_t smallest_plan(runtime_config config) {
  config.budget_bytes = 1;
  return runtime::plan(config).total_bytes;
}

} // namespace

TEST_CASE("without a budget what may not be used is streamed, with a notice, and the text is the same") {
  const auto config = testing::tiny_config(1);
  made_up_limit limit;
  const open_runtime free(config, limit);
  const auto expected = free.reply();
  CHECK(free.notices.empty());
  CHECK(free.impl->report.ring_slots == 0);
  CHECK(free.impl->report.budget_bytes == free.impl->report.total_bytes);

  const auto smallest = smallest_plan(config);
  limit.leave(config, smallest);
  const open_runtime tight(config, limit);
  CHECK(tight.reply() == expected);
  CHECK(tight.impl->report.ring_slots > 0);
  CHECK(tight.impl->report.devices.front().limit_bytes == smallest);
  CHECK(tight.impl->report.devices.front().limit_set_by == "the test");
  CHECK_THAT(tight.notices, Catch::Contains("host:0 may use ") && Catch::Contains("set by the test") &&
                                Catch::Contains("of weights are streamed for every step"));

  limit.leave(config, smallest - 1);
  CHECK_THROWS_WITH(open_runtime(config, limit), Catch::StartsWith("host:0 may use ") &&
                                                     Catch::Contains("set by the test") &&
                                                     Catch::Contains("are needed (weights "));
}

TEST_CASE("a limited address space is a limit, and the reservation keeps to it") {
  const auto config = testing::tiny_config(1);
  made_up_limit limit;
  const auto smallest = smallest_plan(config);
  limit.addresses = needs_of(config).mapped + min_reservation(smallest) + mib;
  const open_runtime tight(config, limit);
  CHECK(tight.reply().size() == 20);
  CHECK(tight.impl->report.devices.front().limit_set_by == "the addresses");
  const auto& shard = *tight.impl->shards.front();
  CHECK(device_shard::reservation(shard.input, *shard.placement) <= min_reservation(smallest) + mib);
}

TEST_CASE("a budget above the limit is obeyed, with a notice that has both numbers") {
  auto config = testing::tiny_config(1);
  made_up_limit limit;
  limit.leave(config, 32 * mib);
  config.budget_bytes = 40 * mib;
  const open_runtime rt(config, limit);
  CHECK_THAT(rt.notices,
             Catch::Contains("the budget of 40.0 MiB is more than the 32.0 MiB that may be used, set by the "
                             "test"));
  CHECK(rt.impl->report.budget_bytes == 40 * mib);
  CHECK(rt.reply().size() == 20);
  config.budget_bytes = 32 * mib;
  const open_runtime within(config, limit);
  CHECK(within.notices.empty());
  within.impl->set_budget(31 * mib, "");
  CHECK(within.notices.empty());
  within.impl->set_budget(33 * mib, "");
  CHECK_THAT(within.notices, Catch::StartsWith("the budget of 33.0 MiB is more than the 32.0 MiB"));
}

TEST_CASE("a budget can be a share of the limit, of each device") {
  auto config = testing::tiny_config(1);
  made_up_limit limit;
  limit.leave(config, 200 * mib);
  config.budget_percent = 25;
  CHECK(open_runtime(config, limit).impl->report.budget_bytes == 50 * mib);
  config.budget_percent = 0;
  config.devices = {{"host:0", 0, 10}, {"host:1", 0, 30}};
  const open_runtime two(config, limit);
  CHECK(two.impl->report.devices[0].budget_bytes == 20 * mib);
  CHECK(two.impl->report.devices[1].budget_bytes == 60 * mib);
  for (const double wrong : {-1.0, 100.5, std::numeric_limits<double>::quiet_NaN()}) {
    config.devices = {{"host:0", 0, wrong}};
    CHECK_THROWS_WITH(open_runtime(config, limit), Catch::Contains("up to 100 percent"));
  }
  config.devices = {{"host:0", 5, 5}};
  CHECK_THROWS_WITH(open_runtime(config, limit), Catch::Contains("up to 100 percent"));
}

TEST_CASE("a share of nothing known is refused") {
  auto config = testing::tiny_config(1);
  config.budget_percent = 50;
  runtime_hooks hooks;
  hooks.read_memory = [] { return memory_reading{}; };
  CHECK_THROWS_WITH(runtime_impl(config, nullptr, hooks), Catch::Contains("does not say what host:0 may use"));
}

TEST_CASE("a plan beyond all memory of the machine is refused, whatever the budget") {
  auto config = testing::tiny_config(1);
  config.kv_tokens = std::numeric_limits<std::int32_t>::max();
  made_up_limit limit;
  config.budget_bytes = std::size_t{100} << 40;
  CHECK_THROWS_WITH(open_runtime(config, limit),
                    Catch::StartsWith("host:0 may use 64.0 GiB, set by all memory that the machine has"));
}

TEST_CASE("memory that is gone when the first KV page is written fails that request, and not the next one") {
  const auto config = testing::tiny_config(1);
  made_up_limit limit;
  const open_runtime rt(config, limit);
  rt.load();
  const std::size_t before = limit.left.exchange(0);
  try {
    (void)rt.reply();
    FAIL("there was no memory");
  } catch (const error& e) {
    CHECK(e.code() == errc::over_budget);
    CHECK_THAT(e.what(), Catch::Contains("no memory for another KV page") && Catch::Contains("the test leaves 0 B"));
  }
  limit.left = before;
  made_up_limit other;
  CHECK(rt.reply() == open_runtime(config, other).reply());
}

TEST_CASE("weights that there is no memory for are an error, and so are buffers") {
  auto config = testing::tiny_config(1);
  config.budget_bytes = 64 * mib;
  made_up_limit limit;
  limit.left = 1;
  CHECK_THROWS_WITH(open_runtime(config, limit), Catch::Contains("would be written") && Catch::Contains("the test"));
}
