// The loader alone: its staging bytes, and what becomes of requests without them.
#include "tests/support/faulty_reader.hpp"
#include "tests/support/lone_loader.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

using namespace tropilla;
using testing::lone_loader;

TEST_CASE("requests wait for a loader's staging bytes, and are served in their order once these are there") {
  testing::fault_script script;
  script.at(0, testing::read_fault::io_failure);
  runtime_hooks hooks;
  hooks.make_reader = [&script](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), script);
  };
  lone_loader loader(hooks);
  lease second = loader.block(2), first = loader.block(1);
  lease rest = loader.take(lone_loader::everything - loader.in_use(), purpose::kv);
  loader.spawn();
  while (loader.arbiter->usage("host:0").waiters == 0)
    std::this_thread::yield();
  auto of_second = loader.load(2, std::move(second));
  auto of_first = loader.load(1, std::move(first));
  CHECK(loader.arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::staging)] == 0);
  rest.reset();
  const auto failure = lone_loader::failure_of(of_second); // it had the first read
  REQUIRE(failure);
  CHECK(cast::from_caf(*failure).code() == errc::io_error);
  CHECK_FALSE(lone_loader::failure_of(of_first));
  CHECK(loader.end() == 0);
}

TEST_CASE("a loader whose staging bytes are refused says so to all that wait, and asks again for the next") {
  lone_loader loader;
  lease first = loader.block(0), second = loader.block(1);
  loader.arbiter->set_budget("host:0", loader.in_use());
  loader.spawn();
  auto of_first = loader.load(0, std::move(first)), of_second = loader.load(1, std::move(second));
  for (auto* pending : {&of_first, &of_second}) {
    const auto failure = lone_loader::failure_of(*pending);
    REQUIRE(failure);
    const auto why = cast::from_caf(*failure);
    CHECK(why.code() == errc::over_budget);
    CHECK_THAT(why.what(), Catch::Contains("for staging on host:0"));
  }
  loader.arbiter->set_budget("host:0", lone_loader::everything);
  CHECK_FALSE(lone_loader::failure_of(loader.load(0)));
  CHECK_FALSE(lone_loader::failure_of(loader.load(1)));
  CHECK(loader.end() == 0);
}

TEST_CASE("an idle loader gives the pages of its staging bytes back, keeps the lease, and loads the same again") {
  lone_loader loader;
  loader.spawn();
  const lease first = loader.block(1);
  REQUIRE_FALSE(lone_loader::failure_of(loader.load(1, first)));
  const auto in_use = loader.in_use();
  const auto pages = loader.resident_pages();
  loader.trim_staging();
  while (loader.resident_pages() == pages)
    std::this_thread::yield();
  CHECK(loader.resident_pages() < pages);
  CHECK(loader.in_use() == in_use);
  const lease again = loader.block(1);
  REQUIRE_FALSE(lone_loader::failure_of(loader.load(1, again)));
  CHECK(std::memcmp(first.data(), again.data(), first.bytes()) == 0);
}

TEST_CASE("requests to a loader whose memory manager has ended wait until it is replaced") {
  lone_loader loader;
  loader.end_memory();
  loader.spawn();
  auto pending = loader.load(0);
  CHECK(loader.end() == 0);
  const auto failure = lone_loader::failure_of(pending);
  REQUIRE(failure);
  CHECK(cast::is_gone(*failure));
}
