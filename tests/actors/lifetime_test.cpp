// When an actor counts as ended: not before its state is destroyed, and with it whatever still reads and writes.
#include "runtime/runtime_impl.hpp"
#include "tests/support/faulty_reader.hpp"
#include "tests/support/lone_loader.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <future>
#include <optional>
#include <stdexcept>
#include <thread>

using namespace tropilla;

namespace {

/// Lets other threads go first, where the order is wrong.
void yield_often() {
  for (int i = 0; i < 10'000; ++i)
    std::this_thread::yield();
}

/// How an actor ends.
enum class way { asked, killed, throws };

struct record {
  std::atomic<std::size_t> told = 0; ///< how many counted the actor as ended
  std::size_t told_too_early = 0;    ///< of them, before its state was destroyed
  std::atomic<bool> destroyed = false;

  void tell() {
    ++told;
    told.notify_all();
  }
  void wait_until_told(std::size_t count) const {
    for (auto now = told.load(); now < count; now = told.load())
      told.wait(now);
  }
};

struct slow_sampler {
  static constexpr const char* actor_name = "sampler";
  slow_sampler(cast::sampler_actor::pointer, std::shared_ptr<record> r) : seen(std::move(r)) {}
  slow_sampler(const slow_sampler&) = delete;
  slow_sampler& operator=(const slow_sampler&) = delete;
  ~slow_sampler() {
    yield_often();
    seen->told_too_early = seen->told;
    seen->destroyed = true;
  }

  cast::sampler_actor::behavior_type behaviour() {
    return {
        [](const cast::draw_tokens&) -> caf::result<cast::tokens_drawn> { throw std::runtime_error("out of breath"); },
    };
  }

  std::shared_ptr<record> seen;
};

struct watching_sampler {
  static constexpr const char* actor_name = "sampler";
  watching_sampler(cast::sampler_actor::pointer s, caf::actor o, std::shared_ptr<record> r)
      : self(s), other(std::move(o)), seen(std::move(r)) {}

  cast::sampler_actor::behavior_type behaviour() {
    others.watch(self, other, [this](const caf::error&) { seen->tell(); });
    return {
        [](const cast::draw_tokens&) -> caf::result<cast::tokens_drawn> { return cast::tokens_drawn{}; },
    };
  }

  cast::sampler_actor::pointer self;
  caf::actor other;
  std::shared_ptr<record> seen;
  cast::watcher others;
};

runtime_hooks spoiled(testing::fault_script& script) {
  runtime_hooks hooks;
  hooks.make_reader = [&script](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), script);
  };
  return hooks;
}

} // namespace

TEST_CASE("an actor counts as ended when its state is destroyed, for everybody who waits for it") {
  const auto how = GENERATE(way::asked, way::killed, way::throws);
  const auto seen = std::make_shared<record>();
  cast::system system;
  const auto slow = cast::spawn<cast::sampler_actor, slow_sampler>(system.get(), seen);
  const auto watching =
      cast::spawn<cast::sampler_actor, watching_sampler>(system.get(), caf::actor_cast<caf::actor>(slow), seen);
  (void)cast::ask_and_wait<cast::tokens_drawn>(system.get(), watching, cast::draw_tokens{}); // it watches by now
  cast::when_ended(slow, [seen] { seen->tell(); });
  if (how == way::killed)
    caf::anon_send_exit(slow, caf::exit_reason::kill);
  if (how == way::throws)
    CHECK_THROWS_AS(cast::ask_and_wait<cast::tokens_drawn>(system.get(), slow, cast::draw_tokens{}), cast::member_gone);
  cast::end_and_wait(system.get(), slow);
  CHECK(seen->destroyed);
  seen->tell();
  seen->wait_until_told(3);
  CHECK(seen->told_too_early == 0);
  cast::when_ended(slow, [seen] { seen->tell(); }); // who asks late hears at once
  CHECK(seen->told == 4);
  cast::end_and_wait(system.get(), watching);
}

TEST_CASE("a loader that ends holds its bytes until no read writes to them") {
  testing::fault_script script;
  script.at(0, testing::read_fault::hang);
  testing::lone_loader loader(spoiled(script));
  loader.spawn();
  (void)loader.load(1);
  script.wait_until_hanging();
  const auto taken = loader.in_use();
  auto left = std::async(std::launch::async, [&] { return loader.end(); });
  yield_often();
  CHECK(loader.in_use() == taken);
  script.release();
  CHECK(left.get() == 0);
}

TEST_CASE("a loader that ended has given every byte back, whatever it was about") {
  for (int round = 0; round < 20; ++round) {
    INFO("round " << round);
    testing::lone_loader loader;
    loader.spawn();
    for (std::size_t g = 0; g < loader.groups(); ++g)
      (void)loader.load(g);
    CHECK(loader.end() == 0);
  }
}

TEST_CASE("a loader is replaced when its last read is done, and not before") {
  const auto expected = [] {
    runtime rt(testing::tiny_config());
    return testing::ids_of(rt.generate({5, 6, 7, 8}, {.max_tokens = 5}));
  }();
  testing::fault_script script;
  script.at(5, testing::read_fault::hang);
  runtime_impl rt(testing::tiny_config(), nullptr, spoiled(script));
  auto& shard = *rt.shards.front();
  const auto restarts = [&] {
    return cast::ask_role<cast::cast_health>(*rt.system, *shard.supervisor, cast::query_health{}).restarts;
  };
  script.wait_until_hanging();
  const auto loader = shard.pipeline->get().loader;
  caf::anon_send_exit(loader, caf::exit_reason::kill);
  yield_often();
  CHECK(restarts() == 0);
  CHECK(shard.pipeline->get().loader == loader);
  script.release();
  const auto channel = std::make_shared<reply_channel>();
  (void)rt.submit(rt.make_request({5, 6, 7, 8}, {.max_tokens = 5}, false, channel));
  CHECK(testing::ids_of(*channel) == expected);
  CHECK(restarts() == 1);
  CHECK(shard.pipeline->get().loader != loader);
}

TEST_CASE("a runtime closes on another thread than the one that opened it and goes on") {
  std::optional<runtime> opened;
  std::promise<void> open, closed;
  std::jthread opener([&] {
    opened.emplace(testing::tiny_config(1, 128));
    (void)opened->load();
    open.set_value();
    closed.get_future().wait();
  });
  open.get_future().wait();
  CHECK(testing::ids_of(opened->generate({1, 2, 3}, {.max_tokens = 2, .ignore_eos = true})).size() == 2);
  opened.reset();
  closed.set_value();
}

TEST_CASE("a replica whose compute was replaced closes while its original lives") {
  auto config = testing::tiny_config(1, 128);
  config.budget_bytes = std::size_t{1} << 30;
  const auto original = std::make_shared<runtime_impl>(config, nullptr);
  const auto reply_of = [](runtime_impl& of) {
    auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = 20;
    o.ignore_eos = true;
    (void)of.submit(of.make_request({1, 2, 3}, o, false, channel));
    return channel;
  };
  const auto expected = testing::ids_of(*reply_of(*original));
  for (int round = 0; round < 10; ++round) {
    auto replica = std::make_shared<runtime_impl>(original, 0);
    const auto channel = reply_of(*replica);
    (void)channel->next_piece(); // it computes on the thread that both share
    caf::anon_send_exit(caf::actor_cast<caf::actor>(replica->shards.front()->compute->get()), caf::exit_reason::kill);
    std::size_t others = 0;
    while (channel->next_piece())
      ++others;
    CHECK(others == expected.size() - 1);
  }
}
