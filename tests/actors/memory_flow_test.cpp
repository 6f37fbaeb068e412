// Memory that moves between weights and KV pages while replies are computed.
#include "runtime/runtime_impl.hpp"
#include "tests/support/tiny_runtime.hpp"
#include "tests/support/varied_replies.hpp"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>

using namespace tropilla;

namespace {

constexpr std::size_t context = 512;

std::size_t kv_bytes(const plan_report& plan) {
  std::size_t bytes = 0;
  for (const auto& line : plan.lines)
    bytes += line.purpose == "KV pages" ? line.bytes : 0;
  return bytes;
}

/// A budget that holds all weights beside some of the KV pages, or as little as works.
runtime_config tight_config(std::size_t sequences = 1) {
  auto config = testing::tiny_config(1, context);
  config.model = testing::model_of_shape("mini", tensor_type::q4_0);
  config.sequences = sequences;
  config.kv_tokens = sequences * context;
  config.max_batch_tokens = 32;
  const auto all = runtime::plan(config);
  config.budget_bytes = 1;
  const auto least = runtime::plan(config).total_bytes;
  config.budget_bytes = std::max(least, all.total_bytes - kv_bytes(all) * (sequences > 1 ? 3 : 2) / 5);
  return config;
}

std::shared_ptr<reply_channel> ask(runtime_impl& rt, std::size_t i, std::size_t tokens) {
  return testing::ask_varied(rt, i, 3 + i % 20, tokens);
}

std::size_t weights_in_use(const runtime_impl& rt) {
  return rt.arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::weights)];
}

/// What leaves the pages is kept, most of it on the disk.
void add_store(runtime_config& config) {
  config.kv_host_bytes = std::size_t{1} << 20;
  config.kv_disk_bytes = std::size_t{16} << 20;
  config.kv_folder = testing::scratch() / "kv that moves";
  std::filesystem::remove_all(config.kv_folder);
}

/// What the system has given of the pool's reservation.
std::size_t resident_bytes(const runtime_impl& rt) {
  const auto one = std::get<lease>(rt.arbiter->try_acquire({"host:0", 1, purpose::workspace}));
  const auto at = std::bit_cast<std::uintptr_t>(one.data());
  std::ifstream in("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    std::uintptr_t begin = 0, end = 0;
    std::size_t kib = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx ", &begin, &end) == 2) // NOLINT(cert-err34-c)
      inside = begin <= at && at < end;
    else if (inside && std::sscanf(line.c_str(), "Rss: %zu kB", &kib) == 1) // NOLINT(cert-err34-c)
      return kib * 1024;
  }
  return 0;
}

/// Waits, for a long time if need be, until something holds.
template <class Condition>
bool eventually(Condition holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!holds())
    if (std::chrono::steady_clock::now() > end)
      return false;
    else
      std::this_thread::yield();
  return true;
}

std::size_t rounds(std::size_t without_a_word) {
  const char* wanted = std::getenv("TROPILLA_TEST_CHANGES");
  return wanted != nullptr ? std::stoul(wanted) : without_a_word;
}

} // namespace

TEST_CASE("a reply that outgrows the pages beside all weights has some of them streamed, and then they come back") {
  auto config = tight_config();
  auto free = config;
  free.budget_bytes = 0;
  constexpr std::size_t tokens = context - 10;
  runtime_impl unlimited(free, nullptr);
  const auto expected = testing::ids_of(*ask(unlimited, 0, tokens));
  CHECK(unlimited.load().moves.empty());

  runtime_impl rt(config, nullptr);
  CHECK(rt.report.ring_slots == 0);
  CHECK(rt.report.max_kv_pages == context / kv_page_tokens);
  CHECK(rt.report.kv_pages < rt.report.max_kv_pages);
  CHECK(testing::ids_of(*ask(rt, 0, tokens)) == expected);
  const auto crowded = rt.load();
  REQUIRE_FALSE(crowded.moves.empty());
  CHECK(std::ranges::any_of(crowded.moves, [](const auto& m) { return m.streamed_bytes > 0; }));
  CHECK(eventually([&] { return rt.load().moves.front().streamed_bytes == 0; }));
  CHECK(rt.load().page_limit < rt.report.max_kv_pages);
  CHECK(rt.arbiter->usage("host:0").high_water <= config.budget_bytes);
  CHECK(testing::ids_of(*ask(rt, 0, tokens)) == expected); // and once more
  CHECK(rt.arbiter->usage("host:0").high_water <= config.budget_bytes);
}

TEST_CASE("KV pages are leased when tokens come to lie on them, and given back when nothing is on them") {
  auto config = tight_config();
  config.budget_bytes = 0;
  runtime_impl rt(config, nullptr);
  const auto pages_in_use = [&] {
    return rt.arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::kv)];
  };
  CHECK(pages_in_use() == 0);
  const auto reply = ask(rt, 0, 40);
  REQUIRE(reply->next_piece());
  const auto first = pages_in_use();
  CHECK(first > 0);
  CHECK(first < kv_bytes(rt.report));
  (void)testing::ids_of(*reply);
  const auto cached = rt.load().pages_cached; // prompts that begin alike find them
  CHECK(cached > 0);
  CHECK(pages_in_use() <= first + kv_bytes(rt.report) / 2);
}

TEST_CASE("an idle runtime gives pages back to the system that another one keeps, and replies as before") {
  auto config = tight_config();
  config.budget_bytes = 0;
  runtime_hooks hooks;
  hooks.idle_after = std::chrono::hours(1);
  runtime_impl keeps(config, nullptr, hooks);
  hooks.idle_after = std::chrono::milliseconds(1);
  runtime_impl idles(config, nullptr, hooks);
  const auto expected = testing::ids_of(*ask(keeps, 0, 100));
  CHECK(testing::ids_of(*ask(idles, 0, 100)) == expected);
  CHECK(eventually([&] { return resident_bytes(idles) < resident_bytes(keeps); }));
  CHECK(idles.arbiter->usage("host:0").in_use == keeps.arbiter->usage("host:0").in_use);
  CHECK(idles.load().pages_cached == keeps.load().pages_cached);
  CHECK(testing::ids_of(*ask(idles, 0, 100)) == expected);
}

TEST_CASE("the plan of all pages is what a runtime holds at its fullest moment") {
  auto config = tight_config(4);
  config.budget_bytes = 0;
  config.budget_bytes = runtime::plan(config).total_bytes;
  runtime_impl rt(config, nullptr);
  std::vector<std::shared_ptr<reply_channel>> replies;
  for (std::size_t i = 0; i < 4; ++i)
    replies.push_back(ask(rt, i, context - 24));
  for (const auto& reply : replies)
    (void)testing::ids_of(*reply);
  const auto peak = rt.arbiter->usage("host:0").high_water;
  CHECK(peak <= config.budget_bytes);
  CHECK(static_cast<double>(peak) == Approx(static_cast<double>(rt.report.total_bytes)).epsilon(0.01));
}

TEST_CASE("a long prompt finds pages beside streamed weights, whatever was in memory before") {
  const auto config = tight_config();
  auto free = config;
  free.budget_bytes = 0;
  std::vector<token_id> prompt;
  for (std::size_t n = 0; n < context - 20; ++n)
    prompt.push_back(static_cast<token_id>(1 + n * 11 % 900));
  generation_options o;
  o.max_tokens = 10;
  o.ignore_eos = true;
  const auto reply = [&](runtime_impl& rt) {
    auto channel = std::make_shared<reply_channel>();
    (void)rt.submit(rt.make_request(prompt, o, false, channel));
    return testing::ids_of(*channel);
  };
  runtime_impl unlimited(free, nullptr), rt(config, nullptr);
  const auto expected = reply(unlimited);
  for (int i = 0; i < 3; ++i) {
    CHECK(reply(rt) == expected);
    CHECK(rt.arbiter->usage("host:0").high_water <= config.budget_bytes);
  }
}

TEST_CASE("a budget below what idle pages hold takes them") {
  auto config = tight_config(4);
  const auto wide = config.budget_bytes;
  config.budget_bytes = 1;
  const auto least = runtime::plan(config).total_bytes;
  config.budget_bytes = wide;
  runtime_impl rt(config, nullptr);
  std::vector<std::vector<token_id>> expected;
  for (std::size_t i = 0; i < 4; ++i)
    expected.push_back(testing::ids_of(*ask(rt, i, 100)));
  CHECK(rt.load().pages_cached > 0);
  rt.set_budget(least, "");
  CHECK(rt.arbiter->usage("host:0").in_use <= least);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(testing::ids_of(*ask(rt, i, 100)) == expected[i]);
  CHECK_THROWS_AS(rt.set_budget(least / 2, ""), error);
  rt.set_budget(wide, "");
  CHECK(testing::ids_of(*ask(rt, 0, 100)) == expected[0]);
}

TEST_CASE("memory that moves at random under 32 streams changes no text, also where members of the cast are killed") {
  const bool kills = GENERATE(false, true);
  constexpr std::size_t streams = 32;
  auto config = tight_config(streams);
  config.kv_tokens = streams * 64;
  config.budget_bytes = 0;
  const auto most = runtime::plan(config).total_bytes;
  config.budget_bytes = 1;
  const auto least = runtime::plan(config).total_bytes;
  config.budget_bytes = most;
  add_store(config);
  runtime_impl rt(config, nullptr);
  std::vector<std::vector<token_id>> expected;
  for (std::size_t i = 0; i < streams; ++i)
    expected.push_back(testing::ids_of(*ask(rt, i, 20 + i * 3)));
  std::vector<std::shared_ptr<reply_channel>> running;
  for (std::size_t i = 0; i < streams; ++i)
    running.push_back(ask(rt, i, 20 + i * 3));
  std::mt19937 random(kills ? 5 : 6);
  for (std::size_t n = 0; n < rounds(20); ++n) {
    if (kills) {
      const auto pipeline = rt.shards.front()->pipeline->get();
      const caf::actor members[] = {
          caf::actor_cast<caf::actor>(pipeline.memory_manager), caf::actor_cast<caf::actor>(pipeline.loader),
          caf::actor_cast<caf::actor>(pipeline.prefetcher), caf::actor_cast<caf::actor>(rt.scheduler->get())};
      caf::anon_send_exit(members[random() % 4], caf::exit_reason::kill);
    }
    const auto budget = least + random() % (most - least + 1);
    INFO("round " << n << ": " << budget << " of " << least << " to " << most);
    CHECK_NOTHROW(rt.set_budget(budget, ""));
    const auto usage = rt.arbiter->usage("host:0");
    CHECK(usage.budget == budget);
    CHECK(usage.in_use <= budget);
    for (int again = 0; again < 3; ++again) {
      const std::size_t i = random() % streams;
      CHECK(testing::ids_of(*running[i]) == expected[i]);
      running[i] = ask(rt, i, 20 + i * 3);
    }
  }
  for (std::size_t i = 0; i < streams; ++i)
    CHECK(testing::ids_of(*running[i]) == expected[i]);
  CHECK(weights_in_use(rt) > 0);
  CHECK(rt.load().store.saved > 0);
  CHECK(rt.load().store.host_bytes <= config.kv_host_bytes);
}

TEST_CASE("any acquisition may be refused while memory moves: a reply has its text, or an error that says why") {
  auto config = tight_config();
  add_store(config);
  constexpr std::size_t tokens = context - 10;
  std::vector<token_id> expected;
  {
    runtime_impl rt(config, nullptr);
    expected = testing::ids_of(*ask(rt, 0, tokens));
  }
  for (std::size_t n = 1; n <= 200; n += 200 / rounds(20)) {
    INFO("acquisition " << n);
    runtime_hooks hooks;
    hooks.refuse_acquisition = n;
    std::shared_ptr<memory_arbiter> arbiter;
    try {
      runtime_impl rt(config, nullptr, hooks);
      arbiter = rt.arbiter;
      const auto ids = testing::ids_of(*ask(rt, 0, tokens)); // within CHECK what it throws would be a failure
      CHECK(ids == expected);
    } catch (const error& e) {
      CHECK(e.code() == errc::over_budget);
      CHECK_THAT(e.what(), Catch::Contains("refused because a test asked for it"));
    }
    if (arbiter)
      CHECK(arbiter->usage("host:0").in_use == 0);
  }
}
