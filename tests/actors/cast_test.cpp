// Single members of the cast: leases through messages, and what happens when one of them ends.
#include "actors/memory_manager.hpp"
#include "runtime/runtime_impl.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <thread>

using namespace tropilla;

namespace {

memory_request want(std::size_t bytes) {
  return {"host:0", bytes, purpose::kv, priority::normal};
}

runtime_config tiny() {
  return testing::tiny_config(1, 128);
}

} // namespace

TEST_CASE("the memory manager grants, queues until bytes come back or not, and refuses") {
  cast::system system;
  const auto arbiter = memory_arbiter::make();
  arbiter->add_device("host:0", nullptr, 4096, 1024, 64);
  const auto manager = cast::spawn_memory_manager(system.get(), arbiter);

  auto first = cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(768)});
  CHECK(first.bytes.bytes() == 768);
  try {
    (void)cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(2048)});
    FAIL("more was granted than there is");
  } catch (const error& e) {
    CHECK(e.code() == errc::over_budget);
  }

  try { // 256 bytes are left
    (void)cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(512), false});
    FAIL("it waited");
  } catch (const error& e) {
    CHECK(e.code() == errc::over_budget);
    CHECK_THAT(e.what(), Catch::Contains("too much"));
  }
  CHECK(arbiter->usage("host:0").waiters == 0);
  CHECK(cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(256), false})
            .bytes.bytes() == 256);

  caf::scoped_actor self(system.get());
  bool granted = false;
  auto pending = cast::ask(self.ptr(), manager, cast::acquire_memory{want(512)});
  while (arbiter->usage("host:0").waiters == 0) // the message is on its way
    std::this_thread::yield();
  first.bytes = {};
  // NOLINTNEXTLINE(performance-move-const-arg): CAF 1.x receives from a handle that is moved
  std::move(pending).receive([&](cast::memory_granted& m) { granted = m.bytes.bytes() == 512; },
                             [](caf::error&) { FAIL("refused"); });
  CHECK(granted);

  cast::end_and_wait(system.get(), manager);
}

TEST_CASE("who ends again and again is given up, and requests that need it fail") {
  const auto who = GENERATE(0, 1, 2);
  runtime_impl cast_of_one(tiny(), nullptr);
  auto& shard = *cast_of_one.shards.front();
  caf::scoped_actor self(*cast_of_one.system);
  const auto member = [&]() -> caf::actor {
    switch (who) {
    case 0:
      return caf::actor_cast<caf::actor>(cast_of_one.sampler->get());
    case 1:
      return caf::actor_cast<caf::actor>(cast_of_one.scheduler->get());
    default:
      return caf::actor_cast<caf::actor>(shard.compute->get());
    }
  };
  cast::cast_health health;
  while (health.down.empty()) {
    const auto holder = member();
    caf::anon_send_exit(holder, caf::exit_reason::kill);
    self->wait_for(holder);
    health = cast::ask_role<cast::cast_health>(*cast_of_one.system, *shard.supervisor, cast::query_health{});
    std::this_thread::yield();
  }
  CHECK(health.restarts == 8);
  const std::string_view names[] = {"sampler", "scheduler", "compute"};
  CHECK_THAT(health.down.front(), Catch::Contains(std::string(names[who])));
  const auto channel = std::make_shared<reply_channel>();
  generation_options o;
  o.max_tokens = 5;
  try {
    (void)cast_of_one.submit(cast_of_one.make_request({1, 2, 3}, o, false, channel));
    while (channel->next_piece()) {
    }
    FAIL("it answered without its " << names[who]);
  } catch (const error& e) {
    CHECK(e.code() == errc::device_failed);
  }
}

TEST_CASE("closing gives every byte back, also in the middle of a reply") {
  std::shared_ptr<memory_arbiter> arbiter;
  {
    runtime_impl rt(tiny(), nullptr);
    arbiter = rt.arbiter;
    const auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = 100;
    (void)rt.submit(rt.make_request({1, 2, 3}, o, false, channel));
    rt.shut_down();
    const auto weights = static_cast<std::size_t>(purpose::weights);
    CHECK(arbiter->usage("host:0").by_purpose[weights] == 0);
    CHECK(arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::staging)] == 0);
  }
  CHECK(arbiter->usage("host:0").in_use == 0);
}
