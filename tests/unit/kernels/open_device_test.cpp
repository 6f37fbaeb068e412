// Names of devices, and what opening them gives.
#include "kernels/open_device.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

void check(const std::vector<std::string>& names) {
  std::vector<device_budget> devices;
  for (const auto& name : names)
    devices.push_back({name});
  check_device_names(devices);
}

} // namespace

TEST_CASE("devices of the host are numbered from 0 on, GPUs have any number, none comes twice") {
  CHECK_NOTHROW(check({"host:0"}));
  CHECK_NOTHROW(check({"host:0", "host:1"}));
  CHECK_NOTHROW(check({"cuda:3", "host:0", "cuda:0"}));
  CHECK_THROWS_WITH(check({"host:1"}), Catch::Contains("must be host:0") && Catch::Contains("not \"host:1\""));
  CHECK_THROWS_WITH(check({"host:0", "host:0"}), Catch::Contains("device 2 must be host:1"));
  CHECK_THROWS_WITH(check({"cuda:1", "cuda:1"}), Catch::Contains("cuda:1 is named twice"));
  for (const char* wrong : {"", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "gpu:0"})
    CHECK_THROWS_WITH(check({wrong}), Catch::Contains("must be host:0"));
}

TEST_CASE("devices of the host are opened under their names and divide the cores") {
  const std::vector<device_budget> devices = {{"host:0"}, {"host:1"}};
  const auto opened = open_devices(devices, {});
  REQUIRE(opened.size() == 2);
  CHECK(opened[1].dev->name() == "host:1");
  CHECK(opened[0].dev->workers() == std::max<std::size_t>(1, usable_cores() / 2));
  CHECK(opened[0].limit.bytes == unlimited);
  CHECK(opened[0].dev->useful_batch_tokens() == default_batch_tokens);
  const auto asked = open_devices(std::span(devices).first(1), {.threads = 3});
  CHECK(asked.front().dev->workers() == 3);
  CHECK_THROWS_AS((void)open_devices(devices, {.isa = "mmx"}), error);
}
