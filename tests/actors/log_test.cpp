// What a runtime logs of its life, its requests and its faults.
#include "memory/bytes.hpp"
#include "runtime/runtime_impl.hpp"
#include "tests/support/caught_output.hpp"
#include "tests/support/log_keeper.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

using namespace tropilla;
using testing::log_keeper;

namespace {

std::vector<token_id> some_prompt() {
  return {1, 8, 15, 22, 29};
}

generation_options tokens(std::size_t n) {
  generation_options o;
  o.max_tokens = n;
  o.ignore_eos = true;
  return o;
}

std::size_t threads_of_process() {
  const std::filesystem::directory_iterator it("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

} // namespace

TEST_CASE("at info a runtime tells what it opens, plans, loads and closes, and nothing of single requests") {
  log_keeper kept;
  auto config = testing::tiny_config();
  config.log.sink = kept.sink();
  {
    runtime rt(config);
    rt.wait_until_loaded();
    (void)testing::ids_of(rt.generate(some_prompt(), tokens(4)));
  }
  const auto opening = kept.messages("runtime", "opens");
  REQUIRE(opening.size() == 1);
  CHECK_THAT(opening[0], Catch::StartsWith(config.model.string()) && Catch::Contains("Q4_0"));
  const auto total = runtime::plan(config).total_bytes;
  CHECK(kept.messages("memory", format_bytes(total) + " are planned").size() == 1);
  CHECK(kept.messages("compute", "with 2 threads").size() == 1);
  CHECK(kept.messages("loader", "all weights that stay in memory are there").size() == 1);
  CHECK(kept.messages("scheduler").empty());
  CHECK_THAT(kept.records().back().message, Catch::StartsWith("closed after") && Catch::Contains("requests: 1"));
  for (const auto& r : kept.records())
    CHECK(r.level == log_level::info);
}

TEST_CASE("at debug a request is followed from its arrival to its end") {
  log_keeper kept;
  auto config = testing::tiny_config();
  config.log = {.sink = kept.sink(), .level = log_level::off, .components = {{"scheduler", log_level::debug}}};
  {
    runtime rt(config);
    (void)testing::ids_of(rt.generate(some_prompt(), tokens(4)));
    CHECK_THROWS_AS(rt.generate(std::vector<token_id>(1000, 1), tokens(4)), error);
  }
  const auto said = kept.messages("scheduler");
  REQUIRE(said.size() == 5);
  CHECK_THAT(said[0], Catch::StartsWith("request 1 is accepted: 5 tokens in, at most 4 out"));
  CHECK_THAT(said[1], Catch::StartsWith("request 1 is computed"));
  CHECK_THAT(said[2], Catch::StartsWith("request 1 has its first token"));
  CHECK_THAT(said[3], Catch::StartsWith("request 1 is finished (length): 5 tokens in") && Catch::Contains("4 out"));
  CHECK_THAT(said[4], Catch::StartsWith("request 2 is refused (context_full)"));
  CHECK(kept.records().size() == said.size()); // the others are off
}

TEST_CASE("a member of the cast that is killed leaves a warning with its name and the reason, and replies go on") {
  log_keeper kept;
  auto config = testing::tiny_config();
  config.log = {.sink = kept.sink(), .level = log_level::warning};
  auto rt = std::make_shared<runtime_impl>(config, nullptr);
  const auto reply = [&] {
    const auto channel = std::make_shared<reply_channel>();
    (void)rt->submit(rt->make_request(some_prompt(), tokens(4), false, channel));
    return testing::ids_of(*channel);
  };
  const auto expected = reply();
  const auto kill = [&](const auto& who, const std::string& name) {
    caf::anon_send_exit(caf::actor_cast<caf::actor>(who), caf::exit_reason::kill);
    INFO(name);
    CHECK(kept.wait_for("supervisor", name + " ended unexpectedly"));
    CHECK(reply() == expected);
  };
  kill(rt->sampler->get(), "the sampler");
  kill(rt->scheduler->get(), "the scheduler");
  kill(rt->shards[0]->pipeline->get().loader, "the loader of host:0");
  kill(rt->shards[0]->compute->get(), "the compute of host:0");
  kill(rt->shards[0]->supervisor->get(), "a supervisor");
  rt->shut_down();
  for (const auto& r : kept.records()) {
    CHECK(r.level == log_level::warning);
    CHECK_THAT(r.message, Catch::Contains("kill") && Catch::Contains("is replaced"));
  }
  CHECK(kept.records().size() == 5);
}

TEST_CASE("who ends again and again leaves an error") {
  log_keeper kept;
  auto config = testing::tiny_config();
  config.log = {.sink = kept.sink(), .level = log_level::error};
  auto rt = std::make_shared<runtime_impl>(config, nullptr);
  cast::cast_health health;
  while (health.down.empty()) {
    caf::anon_send_exit(caf::actor_cast<caf::actor>(rt->sampler->get()), caf::exit_reason::kill);
    health = cast::ask_role<cast::cast_health>(*rt->system, *rt->shards[0]->supervisor, cast::query_health{});
  }
  REQUIRE(kept.wait_for("supervisor", "the sampler ended"));
  CHECK_THAT(kept.records()[0].message,
             Catch::StartsWith("the sampler ended unexpectedly") && Catch::Contains("not replaced any more"));
}

TEST_CASE("a budget that changes and weights that are streamed are logged") {
  log_keeper kept;
  auto config = testing::tiny_config(1, 64);
  config.log = {.sink = kept.sink(), .level = log_level::trace};
  config.packed_cache = testing::scratch() / "packed-logged";
  config.sequences = 1;
  config.budget_bytes = 1;
  const auto small = runtime::plan(config).total_bytes;
  config.budget_bytes = 0;
  {
    runtime rt(config);
    rt.wait_until_loaded();
    CHECK(kept.messages("loader", "from the model's files").size() > 2);
    rt.set_budget(small);
    (void)testing::ids_of(rt.generate(some_prompt(), tokens(2)));
  }
  const auto changed = kept.messages("memory", "the budget of host:0 is " + format_bytes(small));
  REQUIRE(changed.size() == 1);
  CHECK_THAT(changed[0], Catch::Contains("streamed per step"));
  CHECK(kept.messages("memory", "the budget is " + format_bytes(small) + " now").size() == 1);
  CHECK(kept.messages("cache", "has no packed weights").size() >= 1);
  CHECK(kept.messages("compute", "a step of 5 tokens").size() == 1);
  bool streamed = false;
  for (const auto& r : kept.records())
    streamed |= r.component == "loader" && r.level == log_level::trace;
  CHECK(streamed);
}

TEST_CASE("a notice is a warning of the log, too") {
  log_keeper kept;
  auto config = testing::tiny_config();
  const auto blocked = testing::scratch() / "no-folder";
  std::ofstream(blocked) << "a file";
  config.packed_cache = blocked / "packed";
  std::string told;
  config.on_notice = [&](std::string_view sentence) { told = sentence; };
  config.log = {.sink = kept.sink(), .level = log_level::warning};
  {
    runtime rt(config);
    rt.wait_until_loaded();
  }
  CHECK_THAT(told, Catch::Contains("not kept packed"));
  CHECK(kept.messages("runtime") == std::vector<std::string>{told});
}

TEST_CASE("a replica logs where its original does, and after it") {
  log_keeper kept;
  auto config = testing::tiny_config(1, 64);
  config.budget_bytes = runtime::plan(config).total_bytes * 2;
  config.log.sink = kept.sink();
  {
    std::optional<runtime> original(config);
    auto replica = original->replicate(64);
    original.reset();
    CHECK(kept.wait_for("runtime", "closed after"));
    (void)testing::ids_of(replica.generate(some_prompt(), tokens(2)));
  }
  CHECK(kept.messages("runtime", "closed after").size() == 2);
}

TEST_CASE("a sink that throws costs no reply") {
  auto config = testing::tiny_config();
  const auto expected = testing::ids_of(runtime(config).generate(some_prompt(), tokens(4)));
  std::atomic<int> calls = 0;
  config.log = {.sink = [&](const log_record&) -> void { throw ++calls; }, .level = log_level::trace};
  CHECK(testing::ids_of(runtime(config).generate(some_prompt(), tokens(4))) == expected);
  CHECK(calls > 10);
}

TEST_CASE("without a sink nothing is written anywhere, and no thread is there for it") {
  auto config = testing::tiny_config();
  std::size_t threads = 0;
  std::string written;
  {
    testing::caught_output output;
    {
      runtime rt(config);
      rt.wait_until_loaded();
      (void)testing::ids_of(rt.generate(some_prompt(), tokens(4)));
      threads = threads_of_process();
    }
    written = output.text();
  }
  CHECK(written.empty());
  config.log.sink = [](const log_record&) {};
  runtime rt(config);
  rt.wait_until_loaded();
  CHECK(threads_of_process() == threads + 1);
}

TEST_CASE("a component that there is not refuses the runtime") {
  auto config = testing::tiny_config();
  config.log.components = {{"laoder", log_level::debug}};
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("\"laoder\""));
}
