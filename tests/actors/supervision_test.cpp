// Members of the cast are killed while many replies stream: each ends with its text or with an error that says why.
#include "runtime/runtime_impl.hpp"
#include "tests/support/log_keeper.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>

using namespace tropilla;

namespace {

std::size_t entries(const char* folder) {
  const std::filesystem::directory_iterator it(folder);
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

std::size_t resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmRSS:") {
      std::size_t kib = 0;
      status >> kib;
      return kib;
    }
  return 0;
}

/// Replies to a fixed set of prompts, each a channel that a thread reads to its end.
struct stream_of_replies {
  std::vector<token_id> prompt;
  generation_options options;
};

std::vector<stream_of_replies> streams(std::size_t count) {
  std::vector<stream_of_replies> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t n = 0; n < 5 + i * 3; ++n)
      out[i].prompt.push_back(static_cast<token_id>(1 + (n * 7 + i * 13) % 900));
    out[i].options.max_tokens = 20 + i;
    out[i].options.ignore_eos = true;
    out[i].options.sampling.temperature = i % 2 ? 0.7 : 0;
    out[i].options.sampling.seed = i;
  }
  return out;
}

/// A supervisor that replaces nobody.
struct idle_supervisor {
  static constexpr const char* actor_name = "supervisor";
  explicit idle_supervisor(cast::supervisor_actor::pointer) {}
  cast::supervisor_actor::behavior_type behaviour() {
    return {
        [](const cast::query_health&) -> caf::result<cast::cast_health> { return cast::cast_health{}; },
        [](const cast::change_placement&) -> caf::result<cast::placement_changed> { return cast::placement_changed{}; },
    };
  }
};

} // namespace

TEST_CASE("a scheduler that hears late of a supervisor's end leaves its successor alone") {
  const std::size_t devices = GENERATE(1, 2);
  testing::log_keeper kept;
  auto config = testing::tiny_config();
  config.log.sink = kept.sink();
  if (devices > 1) {
    const auto each = runtime::plan(config).total_bytes;
    config.devices = {{"host:0", each}, {"host:1", each}};
  }
  runtime_impl rt(config, nullptr);
  auto& role = *rt.shards.back()->supervisor;
  const auto ended = role.get();
  const auto successor = cast::spawn<cast::supervisor_actor, idle_supervisor>(*rt.system);
  (void)rt.load(); // the scheduler has begun to watch it
  role.set(successor);
  caf::anon_send_exit(ended, caf::exit_reason::kill);
  REQUIRE(kept.wait_for("supervisor", "a supervisor ended unexpectedly"));
  REQUIRE(role.get() == successor);
  caf::anon_send_exit(successor, caf::exit_reason::kill);
  CHECK(role.wait_for_another(successor)); // it is watched, too
}

TEST_CASE("a scheduler and a supervisor that are killed at once are replaced, and replies go on") {
  const std::size_t devices = GENERATE(1, 2);
  runtime_config config;
  config.model = testing::tiny_model();
  config.threads = 1;
  config.context = 256;
  if (devices > 1) {
    const auto each = runtime::plan(config).total_bytes;
    config.devices = {{"host:0", each}, {"host:1", each}};
  }
  auto rt = std::make_shared<runtime_impl>(config, nullptr);
  const auto wanted = streams(1).front();
  const auto start = [&] {
    auto channel = std::make_shared<reply_channel>();
    (void)rt->submit(rt->make_request(wanted.prompt, wanted.options, false, channel));
    return channel;
  };
  const auto expected = testing::ids_of(*start());
  for (int round = 0; round < 40; ++round) {
    const auto before = start();
    const caf::actor both[] = {caf::actor_cast<caf::actor>(rt->shards.front()->supervisor->get()),
                               caf::actor_cast<caf::actor>(rt->scheduler->get())};
    caf::anon_send_exit(both[round % 2], caf::exit_reason::kill);
    caf::anon_send_exit(both[1 - round % 2], caf::exit_reason::kill);
    const auto after = start();
    CHECK(testing::ids_of(*before) == expected);
    CHECK(testing::ids_of(*after) == expected);
  }
}

TEST_CASE("a member of the cast is killed under 32 streams, and every reply ends with its text or an error") {
  const bool streamed = GENERATE(false, true);
  const std::string split = GENERATE("", "pipeline=2", "tensor=2");
  const std::size_t devices = split.empty() ? 1 : 2;
#if defined(__SANITIZE_ADDRESS__)
  constexpr std::size_t instrumented = 5; // times as slow
#else
  constexpr std::size_t instrumented = 1;
#endif
  const std::size_t kills = (streamed ? 20 : devices == 1 ? 200 : 40) / instrumented;
  INFO((streamed ? "streamed, " : "in memory, ") << split);
  runtime_config config;
  config.model = testing::tiny_model();
  config.threads = 1;
  config.context = 256;
  config.sequences = 32;
  config.kv_tokens = 32 * 256;
  config.packed_cache = testing::scratch() / "packed-killed";
  if (streamed) {
    config.budget_bytes = 1;
    config.budget_bytes = runtime::plan(config).total_bytes;
  }
  if (devices > 1) {
    const auto each = config.budget_bytes > 0 ? config.budget_bytes : runtime::plan(config).total_bytes;
    config.budget_bytes = 0;
    config.devices = {{"host:0", each}, {"host:1", each}};
    config.split = split;
  }
  const auto wanted = streams(32);
  auto rt = std::make_shared<runtime_impl>(config, nullptr);
  const auto start = [&](std::size_t i) {
    auto channel = std::make_shared<reply_channel>();
    (void)rt->submit(rt->make_request(wanted[i].prompt, wanted[i].options, false, channel));
    return channel;
  };
  std::vector<std::vector<token_id>> expected;
  for (std::size_t i = 0; i < wanted.size(); ++i)
    expected.push_back(testing::ids_of(*start(i)));

  const char* const seed = std::getenv("TROPILLA_TEST_SEED");
  std::mt19937 random(seed ? static_cast<std::uint32_t>(std::strtoul(seed, nullptr, 10)) : 7);
  const auto victim = [&]() -> caf::actor {
    auto& shard = *rt->shards[random() % rt->shards.size()];
    const auto pipeline = shard.pipeline->get();
    switch (random() % 7) {
    case 0:
      return caf::actor_cast<caf::actor>(rt->sampler->get());
    case 1:
      return caf::actor_cast<caf::actor>(rt->scheduler->get());
    case 2:
      return caf::actor_cast<caf::actor>(shard.compute->get());
    case 3:
      return caf::actor_cast<caf::actor>(shard.supervisor->get());
    case 4:
      return caf::actor_cast<caf::actor>(pipeline.memory_manager);
    case 5:
      return caf::actor_cast<caf::actor>(pipeline.loader);
    default:
      return caf::actor_cast<caf::actor>(pipeline.prefetcher);
    }
  };
  std::size_t threads = 0, memory = 0, replies = 0, failures = 0;
  std::size_t files = entries("/proc/self/fd"); // a successor may be about to open its own when they are counted again
  std::vector<std::shared_ptr<reply_channel>> channels(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i)
    channels[i] = start(i);
  for (std::size_t kill = 0; kill < kills; ++kill) {
    // Some replies come to their end between two kills, and others take their places.
    for (std::size_t n = 0; n < 4; ++n) {
      const std::size_t i = random() % wanted.size();
      try {
        const auto got = testing::ids_of(*channels[i]);
        CHECK(got == expected[i]);
        ++replies;
      } catch (const error& e) {
        CHECK(e.code() == errc::device_failed);
        ++failures;
      }
      channels[i] = start(i);
    }
    caf::anon_send_exit(victim(), caf::exit_reason::kill);
    if (kill == kills / 4) {
      threads = entries("/proc/self/task");
      files = std::max(files, entries("/proc/self/fd"));
      memory = resident_kib();
    }
  }
  for (std::size_t i = 0; i < wanted.size(); ++i)
    CHECK(testing::ids_of(*channels[i]) == expected[i]);
  CHECK(failures == 0);
  CHECK(replies == 4 * kills);
  for (const auto& shard : rt->shards)
    CHECK(cast::ask_role<cast::cast_health>(*rt->system, *shard->supervisor, cast::query_health{}).down.empty());
  CHECK(rt->load().pages_in_use == 0);
  CHECK(entries("/proc/self/task") <= threads + 8); // CAF keeps threads of detached actors for the next ones
  CHECK(entries("/proc/self/fd") <= files + 4);
  CHECK(resident_kib() < memory + memory / 4);
  const auto arbiter = rt->arbiter;
  rt.reset();
  for (const auto& usage : arbiter->usage())
    CHECK(usage.in_use == 0);
}
