// The supervisor alone, over a cast that computes nothing: whom it replaces, whom it tells, and when it gives up.
#include "actors/memory_manager.hpp"
#include "actors/supervisor.hpp"
#include "tests/support/fake_actors.hpp"

#include <catch2/catch.hpp>
#include <thread>

using namespace tropilla;
using testing::fake_compute;
using testing::fake_loader;
using testing::fake_prefetcher;
using testing::fake_sampler;
using testing::fake_script;

namespace {

/// What the scheduler was told.
struct told {
  std::atomic<std::size_t> replaced = 0;
  std::mutex mutex;
  std::vector<std::string> down;
};

struct fake_scheduler {
  static constexpr const char* actor_name = "scheduler";
  fake_scheduler(cast::scheduler_actor::pointer, std::shared_ptr<told> t) : heard(std::move(t)) {}

  cast::scheduler_actor::behavior_type behaviour() {
    return {
        [](const cast::submit_request& m) -> caf::result<cast::request_accepted> {
          return cast::request_accepted{m.request.id};
        },
        [](const cast::cancel_request&) {},
        [](const cast::logits_read& m) -> caf::result<cast::request_accepted> { return cast::request_accepted{m.id}; },
        [](const cast::query_batch&) -> caf::result<cast::batch_state> { return cast::batch_state{}; },
        [](const cast::borrow_pages&) -> caf::result<cast::pages_lent> { return cast::pages_lent{}; },
        [](const cast::borrow_empty_pages&) -> caf::result<cast::pages_lent> { return cast::pages_lent{}; },
        [](const cast::fill_pages&) -> caf::result<cast::pages_returned> { return cast::pages_returned{}; },
        [](const cast::return_pages&) -> caf::result<cast::pages_returned> { return cast::pages_returned{}; },
        [this](const cast::member_replaced&) { ++heard->replaced; },
        [this](const cast::member_down& m) {
          const std::lock_guard lock(heard->mutex);
          heard->down.push_back(m.member);
        },
        [](const cast::supervisors_spawned&) {},
        [](const cast::look_at_clock&) {},
        [](const cast::pages_moved&) {},
        [](const cast::look_at_progress&) {},
        [](const cast::change_budget&) -> caf::result<cast::budget_changed> { return cast::budget_changed{}; },
        [](const cast::keep_placement&) -> caf::result<cast::placement_kept> { return cast::placement_kept{}; },
        [](const cast::ask_again&) {},
        [](const cast::change_again&) {},
    };
  }

  std::shared_ptr<told> heard;
};

/// A supervisor and whom it watches.
class supervisor_fixture {
public:
  supervisor_fixture() {
    sampler_.set(spawn_sampler());
    scheduler_->set(cast::spawn<cast::scheduler_actor, fake_scheduler>(system_.get(), heard));
    compute_->set(spawn_compute());
    pipeline_->set(spawn_pipeline(), placement_);
    cast::supervisor_setup setup;
    setup.members.push_back({"sampler", [this] { return caf::actor_cast<caf::actor>(sampler_.get()); },
                             [this] {
                               ++samplers_spawned;
                               sampler_.set(spawn_sampler());
                               return caf::actor_cast<caf::actor>(sampler_.get());
                             },
                             [this](const error& why) { given_up = why.what(); }});
    setup.scheduler = scheduler_;
    setup.compute = compute_;
    setup.pipeline = pipeline_;
    setup.progress = progress_;
    setup.spawn_pipeline = [this](const auto& placement, const auto&) {
      ++pipelines_spawned;
      if (refuse_pipelines || placement == refused)
        throw error(errc::over_budget, "there are no bytes for a pipeline");
      return spawn_pipeline();
    };
    setup.spawn_compute = [this] {
      ++computes_spawned;
      compute_->set(spawn_compute());
    };
    setup.device = "host:0";
    supervisor_.set(cast::spawn_supervisor(system_.get(), std::move(setup)));
    (void)health();
  }
  ~supervisor_fixture() {
    cast::end_role(system_.get(), supervisor_);
    cast::end_role(system_.get(), sampler_);
    cast::end_role(system_.get(), *scheduler_);
    cast::end_role(system_.get(), *compute_);
    const auto pipeline = pipeline_->get();
    cast::end_and_wait(system_.get(), pipeline.prefetcher);
    cast::end_and_wait(system_.get(), pipeline.loader);
    cast::end_and_wait(system_.get(), pipeline.memory_manager);
  }

  [[nodiscard]] caf::actor sampler() const { return caf::actor_cast<caf::actor>(sampler_.get()); }
  [[nodiscard]] caf::actor compute() const { return caf::actor_cast<caf::actor>(compute_->get()); }
  [[nodiscard]] cast::weight_pipeline pipeline() const { return pipeline_->get(); }

  /// Ends an actor, and waits until `done` is true.
  template <class Done>
  void kill(const caf::actor& who, const Done& done) {
    caf::scoped_actor self(system_.get());
    caf::anon_send_exit(who, caf::exit_reason::kill);
    self->wait_for(who);
    while (!done())
      std::this_thread::yield();
    (void)health(); // what the supervisor was about is done, and the scheduler has heard of it
    (void)cast::ask_role<cast::batch_state>(system_.get(), *scheduler_, cast::query_batch{});
  }
  void compute_something() { ++*progress_; }
  void change(const std::shared_ptr<const weight_placement>& next) {
    (void)cast::ask_role<cast::placement_changed>(system_.get(), supervisor_, cast::change_placement{next});
  }
  void wait_for_weights() {
    (void)cast::ask_role<cast::weights_resident>(system_.get(), *compute_, cast::await_weights{});
  }
  /// How often compute was told to go on.
  [[nodiscard]] std::size_t resumed() {
    wait_for_weights(); // it has heard it
    return computes->resumed;
  }
  [[nodiscard]] std::shared_ptr<const weight_placement> placement() const { return pipeline_->placement(); }
  cast::cast_health health() {
    return cast::ask_role<cast::cast_health>(system_.get(), supervisor_, cast::query_health{});
  }

  std::shared_ptr<told> heard = std::make_shared<told>();
  std::shared_ptr<fake_script> computes = std::make_shared<fake_script>();
  std::atomic<std::size_t> samplers_spawned = 0, pipelines_spawned = 0, computes_spawned = 0;
  std::atomic<bool> refuse_pipelines = false;
  std::shared_ptr<const weight_placement> refused; ///< no pipeline is there for it
  std::string given_up;

private:
  cast::sampler_actor spawn_sampler() {
    return cast::spawn<cast::sampler_actor, fake_sampler>(system_.get(), std::make_shared<fake_script>());
  }
  cast::compute_actor spawn_compute() {
    return cast::spawn<cast::compute_actor, fake_compute>(system_.get(), computes);
  }
  cast::weight_pipeline spawn_pipeline() {
    return {cast::spawn_memory_manager(system_.get(), arbiter_),
            cast::spawn<cast::loader_actor, fake_loader>(system_.get(), std::make_shared<fake_script>()),
            cast::spawn<cast::prefetcher_actor, fake_prefetcher>(system_.get())};
  }

  cast::system system_;
  std::shared_ptr<memory_arbiter> arbiter_ = memory_arbiter::make();
  std::shared_ptr<const weight_placement> placement_ = std::make_shared<weight_placement>();
  std::shared_ptr<std::atomic<std::uint64_t>> progress_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  cast::role<cast::sampler_actor> sampler_;
  std::shared_ptr<cast::role<cast::scheduler_actor>> scheduler_ = std::make_shared<cast::role<cast::scheduler_actor>>();
  std::shared_ptr<cast::role<cast::compute_actor>> compute_ = std::make_shared<cast::role<cast::compute_actor>>();
  std::shared_ptr<cast::current_pipeline> pipeline_ = std::make_shared<cast::current_pipeline>();
  cast::role<cast::supervisor_actor> supervisor_;
};

constexpr std::size_t max_restarts = 8;

} // namespace

TEST_CASE("a sampler that ends is replaced, and the scheduler told") {
  supervisor_fixture s;
  s.kill(s.sampler(), [&] { return s.samplers_spawned == 1; });
  CHECK(s.heard->replaced == 1);
  CHECK(s.heard->down.empty());
  CHECK(s.pipelines_spawned == 0);
  CHECK(s.health().restarts == 1);
}

TEST_CASE("a member that ends eight times is replaced each time, and not a ninth time before something is computed") {
  supervisor_fixture s;
  const auto kill_sampler = [&](std::size_t so_far) {
    s.kill(s.sampler(), [&] { return s.samplers_spawned == so_far + 1; });
  };
  for (std::size_t i = 0; i < max_restarts; ++i)
    kill_sampler(i);
  s.compute_something();
  for (std::size_t i = 0; i < max_restarts; ++i)
    kill_sampler(max_restarts + i);
  CHECK(s.heard->replaced == 2 * max_restarts);
  CHECK(s.health().down.empty());
  s.kill(s.sampler(), [&] { return !s.health().down.empty(); });
  CHECK(s.samplers_spawned == 2 * max_restarts);
  CHECK(s.heard->down == std::vector<std::string>{"sampler"});
  CHECK_THAT(s.given_up, Catch::StartsWith("the sampler ended unexpectedly") && Catch::Contains("again and again"));
}

TEST_CASE("a member of the weight pipeline ends, and all three are replaced while compute stands still") {
  supervisor_fixture s;
  const auto before = s.pipeline();
  const auto who = GENERATE(0, 1, 2);
  const caf::actor victims[] = {caf::actor_cast<caf::actor>(before.memory_manager),
                                caf::actor_cast<caf::actor>(before.loader),
                                caf::actor_cast<caf::actor>(before.prefetcher)};
  s.kill(victims[who], [&] { return s.computes->resumed == 1; });
  const auto now = s.pipeline();
  CHECK(now.memory_manager != before.memory_manager);
  CHECK(now.loader != before.loader);
  CHECK(now.prefetcher != before.prefetcher);
  CHECK(s.pipelines_spawned == 1);
  CHECK(s.computes->suspended == 1);
  CHECK(s.computes_spawned == 0);
  CHECK(s.health().restarts == 1);
}

TEST_CASE("a compute that ends is replaced with those who bring weights, and the scheduler told") {
  supervisor_fixture s;
  s.kill(s.compute(), [&] { return s.computes_spawned == 1; });
  CHECK(s.pipelines_spawned == 1);
  CHECK(s.computes->suspended == 0);
  CHECK(s.heard->replaced == 1);
  CHECK(s.health().restarts == 1);
}

TEST_CASE("a weight pipeline that can't be spawned is given up, and scheduler and waiting clients get the reason") {
  supervisor_fixture s;
  s.refuse_pipelines = true;
  const bool of_compute = GENERATE(true, false);
  s.kill(of_compute ? s.compute() : caf::actor_cast<caf::actor>(s.pipeline().loader),
         [&] { return !s.health().down.empty(); });
  for (int i = 0; i < 2; ++i) {
    CHECK_THROWS_WITH(
        s.wait_for_weights(),
        "the weight pipeline ended unexpectedly (there are no bytes for a pipeline); open the runtime again");
    CHECK_THROWS_WITH(
        s.change(std::make_shared<weight_placement>()),
        "the weight pipeline ended unexpectedly (there are no bytes for a pipeline); open the runtime again");
  }
  CHECK(s.health().down == std::vector<std::string>{"weight pipeline: there are no bytes for a pipeline"});
  CHECK(s.heard->down == std::vector<std::string>{"weight pipeline"});
}

TEST_CASE("other weights get another pipeline, and where there is none all is as it was") {
  supervisor_fixture s;
  const auto opened = s.placement();
  const auto first = std::make_shared<weight_placement>(), second = std::make_shared<weight_placement>();
  s.change(first);
  CHECK(s.placement() == first);
  CHECK(s.resumed() == 1);
  s.refused = second;
  CHECK_THROWS_WITH(s.change(second), "there are no bytes for a pipeline");
  CHECK(s.placement() == first);
  CHECK(s.resumed() == 2);
  CHECK(s.pipelines_spawned == 3);
  CHECK(s.health().down.empty());
  CHECK(s.health().restarts == 0);
  s.change(opened);
  CHECK(s.placement() == opened);
}
