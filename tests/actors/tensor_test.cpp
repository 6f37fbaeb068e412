// Devices that share every layer: the text of one device, within each one's budget.
#include "runtime/runtime_impl.hpp"
#include "tests/support/faulty_reader.hpp"
#include "tests/support/tiny_runtime.hpp"
#include "tropilla/runtime.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <fstream>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace tropilla;

namespace {

runtime_config shared_config(const std::string& split) {
  auto config = testing::tiny_config(1);
  config.model = testing::model_of_shape("mini-heads", tensor_type::q4_0);
  config.split = split;
  return config;
}

std::vector<token_id> prompt_of(std::size_t length, token_id first) {
  std::vector<token_id> ids;
  for (std::size_t i = 0; i < length; ++i)
    ids.push_back(static_cast<token_id>((static_cast<std::size_t>(first) + i * 37) % 900));
  return ids;
}

/// What a runtime replies to some prompts at once.
std::vector<std::vector<token_id>> replies_of(runtime& rt) {
  constexpr std::size_t count = 6;
  std::vector<std::vector<token_id>> out(count);
  std::vector<std::jthread> clients;
  for (std::size_t i = 0; i < count; ++i)
    clients.emplace_back(
        [&rt, &out, i] { out[i] = testing::ask(rt, prompt_of(10 + 20 * i, static_cast<token_id>(i)), 20).ids; });
  clients.clear();
  return out;
}

void require_within_budgets(const runtime& rt) {
  for (const auto& device : rt.memory()) {
    INFO(device.device);
    CHECK(device.peak_bytes <= device.budget_bytes);
  }
}

/// The devices of a split with the least that each needs: what can be streamed is.
std::vector<device_budget> min_budgets(runtime_config config, std::size_t devices) {
  config.devices.clear();
  for (std::size_t i = 0; i < devices; ++i)
    config.devices.push_back({"host:" + std::to_string(i), 1});
  const auto plan = runtime::plan(config);
  for (std::size_t i = 0; i < devices; ++i)
    config.devices[i].bytes = plan.devices[i].total_bytes;
  return config.devices;
}

errc code_of(const runtime_config& config) {
  try {
    runtime rt(config);
  } catch (const error& e) {
    return e.code();
  }
  return errc{};
}

} // namespace

TEST_CASE("text does not depend on how many devices share the layers, nor on what is streamed") {
  runtime alone(shared_config(""));
  const auto expected = replies_of(alone);
  for (const char* const split : {"tensor=2", "tensor=3", "tensor=4", "pipeline=2,tensor=2"}) {
    auto config = shared_config(split);
    const std::size_t devices = runtime::plan(config).devices.size();
    for (const bool streamed : {false, true}) {
      INFO(split << (streamed ? ", streamed" : ""));
      if (streamed)
        config.devices = min_budgets(config, devices);
      runtime rt(config);
      CHECK((rt.plan().streamed_bytes > 0) == streamed);
      CHECK(rt.memory().size() == devices);
      CHECK(replies_of(rt) == expected);
      require_within_budgets(rt);
    }
  }
}

TEST_CASE("every device of a pipeline whose stages share layers computes a step once") {
  auto config = shared_config("pipeline=2,tensor=2");
  config.trace = testing::scratch() / "shared-trace.json";
  {
    runtime rt(config);
    (void)testing::ask(rt, prompt_of(10, 1), 5);
  }
  const auto json = nlohmann::json::parse(std::ifstream(config.trace));
  std::map<nlohmann::json, std::string> tracks;
  for (const auto& e : json.at("traceEvents"))
    if (e.at("ph") == "M" && e.at("name") == "thread_name")
      tracks[e.at("tid")] = e.at("args").at("name").get<std::string>();
  std::map<std::string, std::map<std::int64_t, std::size_t>> jobs; // by device, by their first group
  for (const auto& e : json.at("traceEvents"))
    if (e.at("ph") == "X" && (e.at("name") == "group" || e.at("name") == "groups"))
      ++jobs[tracks.at(e.at("tid"))][e.at("args").at("first").get<std::int64_t>()];
  REQUIRE(jobs.size() == 4);
  const std::size_t steps = jobs.begin()->second.begin()->second; // each begins with the device's first group
  CHECK(steps > 0);
  for (const auto& [device, of] : jobs) {
    INFO(device);
    CHECK(of.begin()->second == steps);
  }
}

TEST_CASE("devices of different budgets share the layers in proportion to them") {
  runtime alone(shared_config(""));
  const auto expected = replies_of(alone);
  auto config = shared_config("tensor=2");
  config.devices = {{"host:0", std::size_t{64} << 20}, {"host:1", std::size_t{20} << 20}};
  const auto plan = runtime::plan(config);
  const auto weights_of = [&](const std::string& device) {
    std::size_t bytes = 0;
    for (const auto& line : plan.lines)
      bytes += line.device == device && line.purpose == "weights" ? line.bytes : 0;
    return bytes;
  };
  CHECK(weights_of("host:0") > 2 * weights_of("host:1"));
  runtime rt(config);
  CHECK(replies_of(rt) == expected);
  require_within_budgets(rt);
}

TEST_CASE("a device that streams its share computes with one that has it in memory") {
  runtime alone(shared_config(""));
  const auto expected = replies_of(alone);
  for (const std::size_t large : {std::size_t{0}, std::size_t{1}}) {
    auto config = shared_config("tensor=2");
    config.kv_tokens = 512;
    config.devices = min_budgets(config, 2);
    runtime rt(config);
    rt.set_budget(config.devices[large].bytes + (std::size_t{2} << 20), config.devices[large].name);
    std::size_t streaming = 0;
    CHECK(replies_of(rt) == expected);
    for (const auto& device : rt.memory())
      for (const auto& p : device.purposes)
        streaming += p.purpose == "streaming ring" && p.in_use_bytes > 0 ? 1 : 0;
    CHECK(streaming == 1);
  }
}

TEST_CASE("the weights of devices that share layers are one copy") {
  const auto weights_of = [](const plan_report& plan) {
    std::size_t bytes = 0;
    for (const auto& line : plan.lines)
      bytes += line.purpose == "weights" ? line.bytes : 0;
    return bytes;
  };
  const std::size_t one = weights_of(runtime::plan(shared_config("")));
  // Norms are on each device, and blocks begin at multiples of 4096 bytes: more of a model as small as this one.
  CHECK(weights_of(runtime::plan(shared_config("tensor=2"))) < one + one / 20);
}

TEST_CASE("packed weights of a share are found again, and are those of that share") {
  auto config = shared_config("tensor=2");
  config.packed_cache = testing::scratch() / "packed-shares";
  std::vector<std::vector<token_id>> expected;
  {
    runtime rt(config);
    expected = replies_of(rt);
  }
  for (const char* const split : {"tensor=2", "tensor=4", "", "tensor=2"}) {
    config.split = split;
    runtime rt(config);
    CHECK(replies_of(rt) == expected);
  }
}

TEST_CASE("budgets of devices that share layers change while replies run") {
  runtime alone(shared_config(""));
  const auto expected = replies_of(alone);
  auto config = shared_config("tensor=2");
  config.kv_tokens = 512; // else smaller budgets have smaller steps
  const auto small = min_budgets(config, 2);
  auto large = small;
  for (auto& d : large) // as much more for both, so that their shares are equal all the same
    d.bytes += small[1].bytes;
  config.devices = large;
  runtime rt(config);
  std::vector<std::vector<token_id>> got;
  {
    std::jthread client([&] { got = replies_of(rt); });
    for (const auto& budgets : {small, large, small, large})
      for (const auto& d : budgets)
        rt.set_budget(d.bytes, d.name);
  }
  CHECK(got == expected);
  for (const auto& device : rt.memory())
    for (const auto& p : device.purposes)
      CHECK((p.purpose != "streaming ring" || p.peak_bytes > 0));
}

TEST_CASE("keys and values of devices that share layers leave and come back") {
  auto config = shared_config("tensor=2");
  config.kv_host_bytes = std::size_t{64} << 20;
  config.sequences = 2;
  config.kv_tokens = 256;
  runtime rt(config);
  std::vector<std::vector<token_id>> first, again;
  for (token_id i = 0; i < 4; ++i) // more than there are pages for
    first.push_back(testing::ask(rt, prompt_of(100, i), 20).ids);
  for (token_id i = 0; i < 4; ++i) {
    const auto reply = testing::ask(rt, prompt_of(100, i), 20);
    CHECK(reply.statistics.reused_tokens >= 96);
    again.push_back(reply.ids);
  }
  CHECK(again == first);
}

TEST_CASE("splits that can't be are refused by what is wrong") {
  auto config = testing::tiny_config(1); // of two KV heads
  for (const char* const split : {"tensor", "tensor=0", "tensor=2,", "tensor=2,tensor=2", "replicas=2", "tensor=65"}) {
    config.split = split;
    CHECK_THROWS_WITH(runtime(config), Catch::Contains("pipeline=N, tensor=N or both"));
  }
  config.split = "tensor=3";
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("3 devices can't share 2 KV heads"));
  config.split = "pipeline=5";
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("5 devices can't share 4 layers"));
  config.devices = {{"host:0", std::size_t{1} << 26}, {"host:1", std::size_t{1} << 26}};
  config.split = "pipeline=3";
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("between 3 devices, and 2 are named"));
  config.split = "tensor=2";
  config.devices[1].bytes = 1;
  CHECK(code_of(config) == errc::over_budget);
  config.devices[1].bytes = config.devices[0].bytes;
  const runtime rt(config);
  CHECK_THROWS_WITH(rt.replicate(), Catch::Contains("can't have replicas"));
}

TEST_CASE("a read that fails on one device fails the step for all, and the next reply is right") {
  auto config = shared_config("tensor=2");
  config.kv_tokens = 512;
  config.devices = min_budgets(config, 2);
  const auto prompt = prompt_of(30, 5);
  runtime alone(shared_config(""));
  const auto expected = testing::ask(alone, prompt, 12).ids;
  testing::fault_script script;
  runtime_hooks hooks;
  hooks.make_reader = [&script](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), script);
  };
  auto rt = std::make_shared<runtime_impl>(config, nullptr, hooks);
  const auto ask = [&] {
    generation_options o;
    o.max_tokens = 12;
    o.ignore_eos = true;
    auto channel = std::make_shared<reply_channel>();
    (void)rt->submit(rt->make_request(prompt, o, false, channel));
    return testing::ids_of(*channel);
  };
  CHECK(ask() == expected);
  std::mt19937 random(3);
  std::size_t failures = 0;
  for (int round = 0; round < 30; ++round) {
    script.at(script.reads() + random() % 40, testing::read_fault::io_failure); // of one device or the other
    try {
      const auto got = ask();
      CHECK(got == expected);
    } catch (const error& e) {
      CHECK(e.code() == errc::io_error);
      CHECK_THAT(e.what(), Catch::Contains("Input/output error"));
      ++failures;
    }
  }
  CHECK(failures > 10);
  CHECK(ask() == expected);
}
