// Compute alone, over a loader and a prefetcher that bring nothing: what it asks for, and when.
#include "actors/compute.hpp"
#include "runtime/runtime_impl.hpp"
#include "tests/support/fake_actors.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <future>

using namespace tropilla;
using testing::fake_loader;
using testing::fake_prefetcher;
using testing::fake_script;

namespace {

/// A device, and the least memory that a step on it needs: rows of the embedding are looked up on disk.
struct small_device {
  small_device() : model(prepared_model::open(smallest())) {
    const auto& placement = *shard().placement;
    REQUIRE(placement.layout.embedding_on_disk());
    activations.resize(placement.plan.activations.bytes + group_alignment);
    workspace.resize(workspace_bytes(placement.layout, model.shape, *shard().dev) + group_alignment);
    space = std::make_unique<llama_workspace>(placement.layout, model.shape, *shard().dev, aligned(activations),
                                              placement.plan.activations.offsets, aligned(workspace));
  }

  static runtime_config smallest() {
    auto c = testing::tiny_config(1, 128);
    c.budget_bytes = 1;
    return c;
  }
  static std::byte* aligned(std::vector<std::byte>& memory) {
    void* at = memory.data();
    std::size_t bytes = memory.size();
    return static_cast<std::byte*>(std::align(group_alignment, 1, at, bytes));
  }
  [[nodiscard]] const placed_shard& shard() const { return model.shards.front(); }

  [[nodiscard]] cast::compute_actor
  spawn(caf::actor_system& system, const cast::weight_pipeline& pipeline, std::shared_ptr<device_group> group = {},
        std::vector<std::shared_ptr<const cast::role<cast::compute_actor>>> others = {}) const {
    cast::compute_setup setup;
    setup.group = std::move(group);
    setup.others = std::move(others);
    setup.placement = shard().placement;
    setup.space = space.get();
    setup.dev = shard().dev.get();
    setup.pipeline = pipeline;
    setup.meter = std::make_shared<transfer_meter>();
    setup.progress = std::make_shared<std::atomic<std::uint64_t>>();
    setup.copies = std::make_shared<host_copies>();
    return cast::spawn_compute(system, std::move(setup));
  }

  prepared_model model;
  std::vector<std::byte> activations, workspace;
  std::unique_ptr<llama_workspace> space;
};

std::shared_ptr<const step> one_token() {
  const auto step = std::make_shared<tropilla::step>();
  step->ids = {1};
  step->sequences = {{0, 1, 0}};
  step->pages = {0};
  step->table = std::make_shared<kv_page_table>(kv_page_table{{}, {{nullptr}}});
  step->logit_rows = {0};
  return step;
}

} // namespace

TEST_CASE("a new compute brings nothing to its place before the job of the one before it is done") {
  const small_device device;
  cast::system system;
  const auto script = std::make_shared<fake_script>(false);
  cast::weight_pipeline pipeline;
  pipeline.loader = cast::spawn<cast::loader_actor, fake_loader>(system.get(), script);
  pipeline.prefetcher = cast::spawn<cast::prefetcher_actor, fake_prefetcher>(system.get());
  std::promise<void> done;
  device.shard().dev->enqueue([until = done.get_future().share()](ops&) { until.wait(); });
  const auto compute = device.spawn(system.get(), pipeline);

  const auto step = one_token();
  caf::scoped_actor self(system.get());
  (void)cast::ask(self.ptr(), compute, cast::run_step{step});
  // These stand behind the step, and behind what it makes compute ask for: who answers them knows of it.
  cast::ask(self.ptr(), compute, cast::await_weights{})
      .receive([](cast::weights_resident) {}, [](caf::error&) { FAIL("there are no weights"); });
  (void)cast::ask_and_wait<cast::group_loaded>(system.get(), pipeline.loader, cast::load_group{});
  CHECK(script->asked == 0);
  done.set_value();
  script->wait_until_asked();
  cast::end_and_wait(system.get(), compute);
  cast::end_and_wait(system.get(), pipeline.prefetcher);
  cast::end_and_wait(system.get(), pipeline.loader);
  device.shard().dev->compute_stream().synchronize();
}

TEST_CASE("a step that is given up while no job is in flight leaves no group in which the next step meets its jobs") {
  const small_device device;
  cast::system system;
  const auto no_rows = std::make_shared<fake_script>(false), silent = std::make_shared<fake_script>(false);
  cast::weight_pipeline pipeline;
  pipeline.loader = cast::spawn<cast::loader_actor, fake_loader>(system.get(), no_rows);
  pipeline.prefetcher = cast::spawn<cast::prefetcher_actor, fake_prefetcher>(system.get());
  const auto other = std::make_shared<cast::role<cast::compute_actor>>();
  other->set(cast::spawn<cast::compute_actor, testing::fake_compute>(system.get(), silent));
  const auto group = std::make_shared<device_group>(std::vector<std::size_t>{1, 1}, std::chrono::seconds(60));
  const auto compute = device.spawn(system.get(), pipeline, group, {other});

  caf::scoped_actor self(system.get());
  auto answer = cast::ask(self.ptr(), compute, cast::run_step{one_token()});
  silent->wait_until_asked();
  no_rows->wait_until_asked();
  const auto ends = group->next(); // the step's
  REQUIRE_FALSE(ends->front()->failure());
  cast::end_and_wait(system.get(), other->get()); // its last job might still wait for this device
  answer.receive([](const cast::step_computed&) { FAIL("one device did not compute its share"); },
                 [](const caf::error& why) { CHECK(cast::is_gone(why)); });
  CHECK(ends->front()->failure());
  CHECK(group->next() != ends);
  cast::end_and_wait(system.get(), compute);
  cast::end_and_wait(system.get(), pipeline.prefetcher);
  cast::end_and_wait(system.get(), pipeline.loader);
  device.shard().dev->compute_stream().synchronize();
}
