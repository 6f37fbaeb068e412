// Single members of the cast: leases through messages, and what happens when one of them ends.
#include "actors/memory_manager.hpp"
#include "actors/runtime_impl.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

memory_request want(std::size_t bytes) {
  return {"host:0", bytes, purpose::kv, priority::normal};
}

runtime_config tiny() {
  runtime_config c;
  c.model = testing::tiny_model();
  c.threads = 1;
  c.context = 128;
  return c;
}

/// Ends one member of a running cast and returns what a request meets then.
template <class Member>
errc after_losing(Member member) {
  runtime_access::parts cast_of_one(tiny(), nullptr);
  (void)cast::ask_and_wait<cast::weights_resident>(*cast_of_one.system, cast_of_one.parts.front()->compute,
                                                   cast::await_weights{});
  caf::scoped_actor self(*cast_of_one.system);
  caf::anon_send_exit(member(cast_of_one), caf::exit_reason::kill);
  self->wait_for(member(cast_of_one));
  const auto channel = std::make_shared<reply_channel>();
  generation_options o;
  o.max_tokens = 5;
  try {
    (void)cast_of_one.submit({1, 2, 3}, o, false, channel);
    while (channel->next_piece()) {
    }
  } catch (const error& e) {
    return e.code();
  }
  return {};
}

} // namespace

TEST_CASE("the memory manager grants, queues until bytes come back, and refuses") {
  cast::system system;
  const auto ledger = arbiter::make();
  ledger->add_device("host:0", nullptr, 4096, 1024, 64);
  const auto manager = cast::spawn_memory_manager(system.get(), ledger);

  auto first = cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(768)});
  CHECK(first.bytes.bytes() == 768);
  CHECK_THROWS_AS(cast::ask_and_wait<cast::memory_granted>(system.get(), manager, cast::acquire_memory{want(2048)}),
                  error);

  caf::scoped_actor self(system.get());
  bool granted = false;
  auto pending = cast::ask(self.ptr(), manager, cast::acquire_memory{want(512)});
  const auto usage = cast::ask_and_wait<cast::memory_usage>(system.get(), manager, cast::query_memory{});
  CHECK(usage.devices.front().waiters == 1);
  first.bytes = {};
  pending.receive([&](cast::memory_granted& m) { granted = m.bytes.bytes() == 512; },
                  [](caf::error&) { FAIL("refused"); });
  CHECK(granted);

  cast::end_and_wait(system.get(), manager);
}

TEST_CASE("a member that ends fails the requests that need it, and nothing hangs") {
  using parts = runtime_access::parts;
  CHECK(after_losing([](parts& p) { return p.parts.front()->compute; }) == errc::device_failed);
  CHECK(after_losing([](parts& p) { return p.sampler; }) == errc::device_failed);
  CHECK(after_losing([](parts& p) { return p.scheduler; }) == errc::device_failed);
}

TEST_CASE("the supervisor reports who is down") {
  runtime_access::parts cast_of_one(tiny(), nullptr);
  cast::end_and_wait(*cast_of_one.system, cast_of_one.sampler);
  cast::cast_health health;
  while (health.down.empty()) // the news and the question may cross
    health = cast::ask_and_wait<cast::cast_health>(*cast_of_one.system, cast_of_one.parts.front()->supervisor,
                                                   cast::query_health{});
  CHECK_THAT(health.down.front(), Catch::Contains("sampler"));
}

TEST_CASE("closing gives every byte back, also in the middle of a reply") {
  std::shared_ptr<arbiter> ledger;
  {
    runtime_access::parts parts(tiny(), nullptr);
    ledger = parts.ledger;
    const auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = 100;
    (void)parts.submit({1, 2, 3}, o, false, channel);
    parts.shut_down();
    const auto weights = static_cast<std::size_t>(purpose::weights);
    CHECK(ledger->usage("host:0").by_purpose[weights] == 0);
    CHECK(ledger->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::staging)] == 0);
  }
  CHECK(ledger->usage("host:0").in_use == 0);
}
