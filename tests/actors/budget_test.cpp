// Budgets that change at random on one of several devices while many replies are computed.
#include "runtime/runtime_impl.hpp"
#include "tests/support/tiny_runtime.hpp"
#include "tests/support/varied_replies.hpp"

#include <catch2/catch.hpp>
#include <random>
#include <string>

using namespace tropilla;

namespace {

constexpr std::size_t replies = 16;

/// So many changes; TROPILLA_TEST_CHANGES=300 takes half a minute.
std::size_t changes() {
  const char* wanted = std::getenv("TROPILLA_TEST_CHANGES");
  return wanted != nullptr ? std::stoul(wanted) : 12;
}

std::shared_ptr<reply_channel> ask(runtime_impl& rt, std::size_t i) {
  return testing::ask_varied(rt, i, 3 + i, 10 + i);
}

std::vector<std::size_t> planned_bytes(const runtime_config& config) {
  const auto plan = runtime::plan(config);
  std::vector<std::size_t> out;
  for (const auto& d : config.devices)
    out.push_back(testing::planned_bytes(plan, d.name));
  return out;
}

} // namespace

TEST_CASE("budgets that change on any device, in the middle of replies, change no text") {
  const std::size_t devices = GENERATE(1, 2, 3);
  const auto* const shape = GENERATE("mini", "mini-untied", "mini-vocabulary");
  const bool cached = GENERATE(false, true);
  INFO(devices << " devices"
               << ", " << shape << (cached ? ", cached" : ""));
  auto config = testing::tiny_config(1, 96);
  config.model = testing::model_of_shape(shape, tensor_type::q4_0);
  config.sequences = replies;
  config.kv_tokens = replies * 64;
  if (cached)
    config.packed_cache = testing::scratch() / "packed-budgets";
  for (std::size_t d = 0; d < devices; ++d)
    config.devices.push_back({"host:" + std::to_string(d), 1});
  const auto least = planned_bytes(config);
  for (auto& d : config.devices)
    d.bytes = std::size_t{1} << 30;
  const auto most = planned_bytes(config);

  runtime_impl rt(config, nullptr);
  std::vector<std::vector<token_id>> expected;
  for (std::size_t i = 0; i < replies; ++i)
    expected.push_back(testing::ids_of(*ask(rt, i)));
  std::mt19937 random(static_cast<std::mt19937::result_type>(devices * 2 + cached));
  std::vector<std::shared_ptr<reply_channel>> running;
  for (std::size_t i = 0; i < replies; ++i)
    running.push_back(ask(rt, i));
  const auto in_use_fits = [&] {
    for (const auto& u : rt.arbiter->usage())
      CHECK(u.in_use <= u.budget);
  };
  for (std::size_t n = 0; n < changes(); ++n) {
    const std::size_t d = random() % devices;
    const std::size_t budget = random() % 5 == 0 ? least[d] : least[d] + random() % (most[d] - least[d] + 4096);
    INFO("change " << n << ": " << config.devices[d].name << " gets " << budget << " of " << least[d] << " to "
                   << most[d]);
    CHECK_NOTHROW(rt.set_budget(budget, config.devices[d].name));
    CHECK(rt.arbiter->usage(config.devices[d].name).budget == budget);
    in_use_fits();
    const std::size_t i = random() % replies;
    CHECK(testing::ids_of(*running[i]) == expected[i]);
    running[i] = ask(rt, i);
  }
  for (std::size_t i = 0; i < replies; ++i)
    CHECK(testing::ids_of(*running[i]) == expected[i]);
  in_use_fits();
}

TEST_CASE("what a device needs at the least leaves the embedding in the file, also with a single layer") {
  auto config = testing::tiny_config(1, 96);
  config.model = testing::model_of_shape("mini-vocabulary", tensor_type::q4_0);
  config.devices = {{"host:0", 1}, {"host:1", 1}, {"host:2", 1}, {"host:3", 1}};
  CHECK_THAT(runtime::plan(config).residency, Catch::StartsWith("GR "));
}
