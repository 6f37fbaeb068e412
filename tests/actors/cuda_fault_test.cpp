// A GPU refuses or breaks off: the client gets a sentence, nothing is left behind, and others go on.
#include "tests/support/emulated_runtime.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

using namespace tropilla;
using testing::cuda_config;
using testing::gpu_script;
using testing::on_emulated;
using testing::reply_of;
using testing::require_all_given_back;

namespace {

const std::vector<token_id> asked{1, 2, 3};
constexpr std::size_t wanted_tokens = 3; // the third comes of a step that is captured

/// What came of a whole run: the reply, or why there is none.
struct outcome {
  std::vector<token_id> ids;
  std::string failure;
};

outcome run(const runtime_config& config, const std::shared_ptr<gpu_script>& script) {
  try {
    runtime_impl rt(config, nullptr, on_emulated(script));
    return {reply_of(rt, asked, wanted_tokens), ""};
  } catch (const error& e) {
    return {{}, e.what()};
  }
}

std::shared_ptr<gpu_script> large_granules() {
  auto script = std::make_shared<gpu_script>();
  script->granule = std::size_t{1} << 20; // fewer to refuse
  return script;
}

/// The call that fails, or that the device has less memory than it said.
bool names_the_call(const std::string& sentence) {
  const auto names = {"reserve of", "allocate_host of", "make_stream of", "the device has no memory left"};
  return std::ranges::any_of(names, [&](const char* name) { return sentence.find(name) != std::string::npos; });
}

} // namespace

TEST_CASE("CUDA: a mistake in a configuration is told before a GPU is opened") {
  runtime_hooks hooks;
  hooks.open_gpu = [](int) -> std::unique_ptr<cuda::gpu_api> { throw error(errc::unsupported, "opened"); };
  auto config = cuda_config();
  CHECK_THROWS_WITH(prepared_model::open(config, hooks), "opened");
  config.kv_type = "q4_0";
  CHECK_THROWS_WITH(prepared_model::open(config, hooks), Catch::Contains("f16, bf16 or q8_0"));
  config.kv_type = "";
  config.context = std::size_t{1} << 20;
  CHECK_THROWS_WITH(prepared_model::open(config, hooks), Catch::Contains("the context must be 2 to"));
}

TEST_CASE("CUDA: whichever allocation is refused, once or from then on, the runtime says so or does without") {
  auto config = cuda_config();
  SECTION("in memory") {
    REQUIRE(prepared_model::open(config, on_emulated(large_granules())).report.ring_slots == 0);
  }
  SECTION("streamed, and pinned") {
    config = cuda_config(1);
    config.devices.front().bytes = prepared_model::open(config, on_emulated(large_granules())).report.total_bytes;
    config.pinned_bytes = std::size_t{64} << 20;
    REQUIRE(prepared_model::open(config, on_emulated(large_granules())).report.ring_slots > 0);
  }
  const auto sound = large_granules();
  const auto expected = run(config, sound);
  REQUIRE(expected.failure.empty());
  REQUIRE(expected.ids.size() == wanted_tokens);
  const auto all = sound->allocations.load();
  CHECK(all > 8);
  std::size_t refused = 0;
  for (const bool from_then_on : {false, true})
    for (std::int64_t n = 1; n <= all; ++n) {
      const auto script = large_granules();
      script->refuse_allocation = n;
      script->refuse_from_then_on = from_then_on;
      const auto what = run(config, script);
      INFO("allocation " << n << " of " << all << (from_then_on ? " and all after it: " : ": ") << what.failure);
      if (what.failure.empty())
        CHECK(what.ids == expected.ids);
      else
        CHECK(names_the_call(what.failure));
      refused += what.failure.empty() ? 0 : 1;
      require_all_given_back(*script);
    }
  CHECK(refused > 0);
}

TEST_CASE("CUDA: a GPU that has less memory free than the budget is refused at once, or as soon as it lacks it") {
  const auto script = std::make_shared<gpu_script>();
  script->memory_bytes = std::size_t{1} << 20; // somebody else has the rest
  CHECK_THROWS_WITH(runtime_impl(cuda_config(std::size_t{8} << 20), nullptr, on_emulated(script)),
                    Catch::Contains("cuda:0 has 1.0 MiB free, less than its budget of 8.0 MiB; lower the budget"));
  require_all_given_back(*script);
  const auto without_budget = run(cuda_config(), script); // as much as the plan needs, which is more
  CHECK_THAT(without_budget.failure, Catch::Contains("on cuda:0: the device has no memory left"));
  require_all_given_back(*script);
}

TEST_CASE("CUDA: steps are large, but where a budget has room for smaller ones only") {
  const auto hooks = on_emulated(std::make_shared<gpu_script>());
  auto config = cuda_config();
  config.context = config.kv_tokens = 2048;
  config.max_batch_tokens = 0;
  CHECK(prepared_model::open(config, hooks).report.max_batch_tokens == 2048);
  config.max_batch_tokens = 512;
  config.devices.front().bytes = 1;
  const auto smallest = prepared_model::open(config, hooks).report.total_bytes;
  config.max_batch_tokens = 0;
  config.devices.front().bytes = smallest;
  const auto report = prepared_model::open(config, hooks).report;
  CHECK(report.max_batch_tokens == 512);
  CHECK(report.divisions.back().total_bytes == smallest);
}

TEST_CASE("CUDA: without a budget, a model that is larger than what a GPU has free streams") {
  const auto script = std::make_shared<gpu_script>();
  const auto hooks = on_emulated(script);
  const auto whole = run(cuda_config(), script);
  const std::size_t needed = prepared_model::open(cuda_config(), hooks).report.total_bytes;
  const std::size_t smallest = prepared_model::open(cuda_config(1), hooks).report.total_bytes;
  REQUIRE(smallest < needed);
  script->memory_bytes = (std::size_t{256} << 20) + smallest; // CUDA's own part, and what is left for weights
  {
    runtime_impl rt(cuda_config(), nullptr, hooks);
    CHECK(rt.report.residency.find('S') != std::string::npos);
    CHECK(rt.report.total_bytes == smallest);
    CHECK(reply_of(rt, asked, wanted_tokens) == whole.ids);
  }
  require_all_given_back(*script);
}

TEST_CASE("CUDA: a kernel that fails, fails the device and its requests with a reason, and another GPU goes on") {
  const auto sound = std::make_shared<gpu_script>(), broken = std::make_shared<gpu_script>();
  const auto hooks = on_emulated(std::vector{sound, broken});
  auto on_second = cuda_config();
  on_second.devices.front().name = "cuda:1";
  {
    runtime_impl first(cuda_config(), nullptr, hooks), second(on_second, nullptr, hooks);
    const auto text = reply_of(first, asked, 2);
    CHECK(reply_of(second, asked, 2) == text);
    broken->fail_at = broken->synchronized + 3;
    for (int i = 0; i < 2; ++i) // it stays broken
      try {
        (void)reply_of(second, {1, 2, 3, 4}, 20);
        FAIL("the device computed on");
      } catch (const error& e) {
        CHECK(e.code() == errc::device_failed);
        CHECK_THAT(e.what(), Catch::Contains("a kernel"));
      }
    CHECK(reply_of(first, asked, 2) == text);
  }
  require_all_given_back(*broken);
  require_all_given_back(*sound);
}

TEST_CASE("CUDA: of two GPUs that have a part of the layers each, whichever fails, the reply fails with the reason") {
  auto config = cuda_config(std::size_t{64} << 20);
  config.devices.push_back({"cuda:1", std::size_t{64} << 20});
  const std::size_t which = GENERATE(0, 1);
  const std::vector scripts{std::make_shared<gpu_script>(), std::make_shared<gpu_script>()};
  {
    runtime_impl rt(config, nullptr, on_emulated(scripts));
    CHECK(reply_of(rt, asked, wanted_tokens).size() == wanted_tokens);
    CHECK(scripts[1]->copies_between_gpus > 0); // what the first computed never passes the processor
    scripts[which]->fail_at = scripts[which]->synchronized + 1;
    CHECK_THROWS_WITH(reply_of(rt, {5, 6, 7}, wanted_tokens), Catch::Contains("a kernel"));
  }
  for (const auto& script : scripts)
    require_all_given_back(*script);
}

TEST_CASE("CUDA: whichever copy or kernel of a streamed step fails, the request that waits for it fails") {
  auto config = cuda_config(1);
  config.devices.front().bytes = prepared_model::open(config, on_emulated(large_granules())).report.total_bytes;
  for (const std::int64_t n : {1, 2, 3, 5}) {
    const auto script = large_granules();
    {
      runtime_impl rt(config, nullptr, on_emulated(script));
      CHECK(reply_of(rt, asked, 1).size() == 1);
      script->fail_at = script->synchronized + n;
      CHECK_THROWS_WITH(reply_of(rt, asked, 4), Catch::Contains("a kernel"));
    }
    require_all_given_back(*script);
  }
}
