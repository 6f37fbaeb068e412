// The scheduler alone, with a compute and a sampler that have no model: what it does when one of them ends.
#include "actors/memory_manager.hpp"
#include "actors/scheduler.hpp"
#include "tests/support/fake_actors.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <future>
#include <thread>

using namespace tropilla;
using testing::fake_compute;
using testing::fake_sampler;
using testing::fake_script;

namespace {

/// A scheduler and who it speaks to.
class scheduler_fixture {
public:
  scheduler_fixture(std::shared_ptr<fake_script> computes, std::shared_ptr<fake_script> draws,
                    const std::function<void(cast::scheduler_setup&)>& change = {}) {
    spawn_compute(std::move(computes));
    spawn_sampler(std::move(draws));
    run_shape shape;
    shape.context = shape.kv_tokens = 64;
    shape.max_batch_tokens = 16;
    shape.logit_rows = 4;
    shape.sequences = 1;
    batching_ = std::make_shared<batcher>(texts_, shape, 10);
    cast::scheduler_setup setup{batching_, fake_compute::vocabulary, compute_, sampler_};
    if (change)
      change(setup);
    scheduler_.set(cast::spawn_scheduler(system_.get(), std::move(setup)));
  }
  ~scheduler_fixture() {
    cast::end_role(system_.get(), scheduler_);
    cast::end_role(system_.get(), *compute_);
    cast::end_role(system_.get(), *sampler_);
    batching_->fail_all(error(errc::cancelled, "the test is over"));
  }

  void spawn_compute(std::shared_ptr<fake_script> play) {
    compute_->set(cast::spawn<cast::compute_actor, fake_compute>(system_.get(), std::move(play)));
  }
  void spawn_sampler(std::shared_ptr<fake_script> play) {
    sampler_->set(cast::spawn<cast::sampler_actor, fake_sampler>(system_.get(), std::move(play)));
  }
  cast::compute_actor compute() const { return compute_->get(); }
  cast::sampler_actor sampler() const { return sampler_->get(); }
  template <class Handle>
  void end(const Handle& who) {
    cast::end_and_wait(system_.get(), who);
    settle();
  }
  template <class Message>
  void tell(Message m) {
    cast::tell_from_outside(scheduler_.get(), std::move(m));
    settle();
  }
  /// A reply of two tokens.
  std::shared_ptr<reply_channel> ask() {
    auto channel = std::make_shared<reply_channel>();
    ask(channel);
    return channel;
  }
  void ask(const std::shared_ptr<reply_sink>& sink) {
    sequence_request r;
    r.id = ++last_id_;
    r.prompt = {1, 2, 3};
    r.options.max_tokens = 2;
    r.options.ignore_eos = true;
    r.sink = sink;
    r.abandoned = std::make_shared<std::atomic<bool>>(false);
    (void)cast::ask_role<cast::request_accepted>(system_.get(), scheduler_, cast::submit_request{std::move(r)});
  }

private:
  /// The scheduler has dealt with what was sent to it before.
  void settle() { (void)cast::ask_role<cast::batch_state>(system_.get(), scheduler_, cast::query_batch{}); }

  cast::system system_;
  gguf_file file_ = gguf_file::open(testing::tiny_model());
  tokenizer texts_{file_};
  std::shared_ptr<cast::role<cast::compute_actor>> compute_ = std::make_shared<cast::role<cast::compute_actor>>();
  std::shared_ptr<cast::role<cast::sampler_actor>> sampler_ = std::make_shared<cast::role<cast::sampler_actor>>();
  cast::role<cast::scheduler_actor> scheduler_;
  std::shared_ptr<batcher> batching_;
  request_id last_id_ = 0;
};

std::shared_ptr<fake_script> answering() {
  return std::make_shared<fake_script>();
}
std::shared_ptr<fake_script> silent() {
  return std::make_shared<fake_script>(false);
}

} // namespace

TEST_CASE("a step whose sampler ends before it answers is computed again, and drawn by its successor") {
  const bool replaced_first = GENERATE(false, true); // or the news of the end comes first
  const auto computes = answering(), draws = silent(), successor = answering();
  scheduler_fixture s(computes, draws);
  const auto reply = s.ask();
  draws->wait_until_asked();
  const auto old = s.sampler();
  if (!replaced_first)
    s.end(old);
  CHECK_FALSE(reply->ended());
  s.spawn_sampler(successor);
  s.tell(cast::member_replaced{});
  if (replaced_first)
    s.end(old);
  CHECK(testing::ids_of(*reply).size() == 2);
  CHECK(computes->asked == 3);
  CHECK(successor->asked == 2);
}

TEST_CASE("a step whose compute ends before it answers is sent to its successor") {
  const bool replaced_first = GENERATE(false, true);
  const auto computes = silent(), draws = answering(), successor = answering();
  scheduler_fixture s(computes, draws);
  const auto reply = s.ask();
  computes->wait_until_asked();
  const auto old = s.compute();
  if (!replaced_first)
    s.end(old);
  CHECK_FALSE(reply->ended());
  s.spawn_compute(successor);
  s.tell(cast::member_replaced{});
  if (replaced_first)
    s.end(old);
  CHECK(testing::ids_of(*reply).size() == 2);
  CHECK(computes->asked == 1);
  CHECK(successor->asked == 2);
}

TEST_CASE("a member that is replaced while nobody waits for it sends no step twice") {
  const auto computes = silent(), draws = answering();
  scheduler_fixture s(computes, draws);
  const auto reply = s.ask();
  computes->wait_until_asked();
  s.tell(cast::member_replaced{});
  CHECK(computes->asked == 1);
  CHECK_FALSE(reply->ended());
}

TEST_CASE("a member that is not replaced any more fails what is there and what comes, with its name and the reason") {
  scheduler_fixture s(silent(), answering());
  const auto reply = s.ask();
  s.tell(cast::member_down{"sampler", "out of breath"});
  CHECK_THROWS_WITH(testing::ids_of(*reply), "the sampler ended unexpectedly (out of breath); open the runtime again");
  s.tell(cast::member_down{"compute", "later"}); // the first reason stays
  CHECK_THROWS_WITH(s.ask(), "the sampler ended unexpectedly (out of breath); open the runtime again");
}

TEST_CASE("where memory is refused in the middle of the batch every reply fails, for nobody knows how far it came") {
  struct refused_sink final : reply_sink {
    client_wants token(piece) override { throw std::bad_alloc(); }
    void logits(std::size_t, std::size_t, std::span<const float>) override {}
    void finished(const generation_statistics&) override {}
    void failed(const error& why) override { failure.set_value(why); }
    std::promise<error> failure;
  };
  const auto sink = std::make_shared<refused_sink>();
  const auto computes = answering();
  scheduler_fixture s(computes, answering());
  s.ask(sink);
  const auto failure = sink->failure.get_future().get();
  CHECK(failure.code() == errc::over_budget);
  CHECK_THAT(failure.what(), Catch::StartsWith("the system refused memory"));
}

TEST_CASE("who never answers is given up with a sentence, and ended") {
  const bool computed = GENERATE(false, true); // then it is the sampler that never answers
  const auto computes = computed ? answering() : silent(), draws = silent();
  std::promise<void> ended;
  scheduler_fixture s(computes, draws, [&](cast::scheduler_setup& setup) {
    setup.between_looks = std::chrono::milliseconds(1);
    setup.end_members = [&] { ended.set_value(); };
  });
  const auto reply = s.ask();
  try {
    (void)testing::ids_of(*reply);
    FAIL("nobody answered");
  } catch (const error& e) {
    CHECK(e.code() == errc::device_failed);
    CHECK_THAT(e.what(), Catch::Contains(computed ? "waited for the sampler" : "waited for compute"));
  }
  ended.get_future().wait();
}

TEST_CASE("when nothing was asked for, read or replaced for a while, pages go back to the system, once") {
  std::atomic<std::size_t> trims = 0;
  const auto arbiter = memory_arbiter::make();
  device_setup device{"host:0", nullptr, 4096, 4096, 64};
  device.trim = [&](std::size_t, std::size_t) { ++trims; };
  arbiter->add_device(device);
  const auto touch = [&] { return std::get<lease>(arbiter->try_acquire({"host:0", 64, purpose::weights})).data(); };
  (void)touch();
  cast::system system;
  auto manager = cast::spawn_memory_manager(system.get(), arbiter);
  const auto loads = answering();
  auto loader = cast::spawn<cast::loader_actor, testing::fake_loader>(system.get(), loads);
  const auto wait_for = [](const std::atomic<std::size_t>& count, std::size_t n) {
    while (count < n)
      std::this_thread::yield();
  };
  {
    std::atomic<std::uint64_t> work = 0;
    scheduler_fixture s(answering(), answering(), [&](cast::scheduler_setup& setup) {
      setup.idle_after = std::chrono::milliseconds(5);
      setup.devices = {{.name = "host:0",
                        .page_bytes = 64,
                        .memory_manager = [&] { return manager; },
                        .loader = [&] { return loader; },
                        .supervisor = {},
                        .commits_later = true,
                        .commit = [](const lease&) -> std::optional<std::string> { return std::nullopt; }}};
      setup.progress = [&] { return work.load(); };
    });
    wait_for(trims, 1);
    wait_for(loads->trimmed, 1);
    s.tell(cast::look_at_clock{}); // another look changes nothing
    CHECK(loads->trimmed == 1);
    (void)touch();
    CHECK(testing::ids_of(*s.ask()).size() == 2);
    wait_for(loads->trimmed, 2);
    wait_for(trims, 2);
    ++work; // weights were read without a request
    s.tell(cast::look_at_clock{});
    wait_for(loads->trimmed, 3);
    s.tell(cast::member_replaced{});
    wait_for(loads->trimmed, 4);
  }
  cast::end_and_wait(system.get(), loader);
  cast::end_and_wait(system.get(), manager);
}

TEST_CASE("who takes long is waited for while there is progress, and what comes after all counts for nothing") {
  const auto computes = silent();
  std::atomic<std::uint64_t> looks = 0;
  std::atomic<bool> moves = true;
  scheduler_fixture s(computes, answering(), [&](cast::scheduler_setup& setup) {
    setup.between_looks = std::chrono::milliseconds(1);
    setup.progress = [&] { return moves ? ++looks : 0; };
  });
  const auto reply = s.ask();
  while (looks < 30)
    std::this_thread::yield();
  CHECK_FALSE(reply->ended());
  moves = false;
  CHECK_THROWS_AS(testing::ids_of(*reply), error);
  // The step that was given up fails now; the next request's is another, and is not mistaken for it.
  const auto next = answering();
  const auto old = s.compute();
  s.spawn_compute(next);
  const auto second = s.ask();
  s.end(old);
  CHECK(testing::ids_of(*second).size() == 2);
}
