// The prefetcher alone, over a loader that answers as a test says: who gets which group, and what becomes of the rest.
#include "actors/memory_manager.hpp"
#include "actors/prefetcher.hpp"

#include <catch2/catch.hpp>
#include <mutex>
#include <thread>

using namespace tropilla;

namespace {

/// Loads that a fake loader was asked for, and the first ones that it fails.
struct loads_script {
  std::mutex mutex;
  std::vector<std::size_t> asked;
  std::size_t failing = 0;
};

struct scripted_loader {
  static constexpr const char* actor_name = "loader";
  scripted_loader(cast::loader_actor::pointer, std::shared_ptr<loads_script> of) : play(std::move(of)) {}

  cast::loader_actor::behavior_type behaviour() {
    return {
        [this](const cast::load_group& m) -> caf::result<cast::group_loaded> {
          const std::lock_guard lock(play->mutex);
          play->asked.push_back(m.group);
          if (play->failing > 0 && play->failing--)
            return cast::to_caf(error(errc::io_error, "group " + std::to_string(m.group) + " can't be read"));
          return cast::group_loaded{m.group};
        },
        [](const cast::look_up_embedding&) -> caf::result<cast::embedding_ready> { return cast::embedding_ready{}; },
        [](const cast::transfer_done&) {},
        [](const cast::trim_staging&) {},
    };
  }

  std::shared_ptr<loads_script> play;
};

constexpr std::size_t group_bytes = 4096;

/// Groups of equal size, the last of which are streamed through two slots, on a device with a budget.
class pipeline_fixture {
public:
  pipeline_fixture(std::size_t resident, std::size_t streamed, std::size_t budget = 64 * group_bytes,
                   std::vector<lease> kept = {}) {
    arbiter->add_device("host:0", nullptr, 64 * group_bytes, budget, 64);
    const auto weights = std::make_shared<weight_placement>();
    weights->layout.config.layers = resident + streamed;
    weights->layout.groups.resize(resident + streamed);
    for (auto& g : weights->layout.groups)
      g.bytes = group_bytes;
    weights->plan.streamed.assign(resident, false);
    weights->plan.streamed.resize(resident + streamed, true);
    weights->plan.ring_slots = streamed > 0 ? 2 : 0;
    weights->plan.slot_bytes = group_bytes;
    memory_manager_ = cast::spawn_memory_manager(system_.get(), arbiter);
    loader_ = cast::spawn<cast::loader_actor, scripted_loader>(system_.get(), loads);
    prefetcher = cast::spawn_prefetcher(
        system_.get(), {"host:0", weights, memory_manager_, loader_, nullptr, slots, std::move(kept), {}});
  }
  ~pipeline_fixture() {
    cast::end_and_wait(system_.get(), prefetcher);
    cast::end_and_wait(system_.get(), loader_);
    cast::end_and_wait(system_.get(), memory_manager_);
  }

  cast::group_ready need(std::size_t group) {
    return cast::ask_and_wait<cast::group_ready>(system_.get(), prefetcher, cast::need_group{group});
  }
  template <class Message>
  void tell(const Message& m) {
    cast::tell_from_outside(prefetcher, m);
  }
  [[nodiscard]] std::size_t leased(purpose used_for) const {
    return arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(used_for)];
  }
  /// Messages that were answered may hold leases a moment longer.
  void wait_until_given_back(purpose used_for) const {
    while (leased(used_for) > 0)
      std::this_thread::yield();
  }
  void end() { cast::end_and_wait(system_.get(), prefetcher); }
  cast::system& system() { return system_; }

  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();
  std::shared_ptr<loads_script> loads = std::make_shared<loads_script>();
  std::shared_ptr<std::atomic<std::size_t>> slots = std::make_shared<std::atomic<std::size_t>>(0);
  cast::prefetcher_actor prefetcher;

private:
  cast::system system_;
  cast::memory_manager_actor memory_manager_;
  cast::loader_actor loader_;
};

} // namespace

TEST_CASE("a prefetcher leases, loads and delivers resident groups once, each in a block of its own") {
  pipeline_fixture p(3, 0);
  for (int round = 0; round < 2; ++round)
    for (std::size_t g = 0; g < 3; ++g) {
      const auto ready = p.need(g);
      CHECK(ready.group == g);
      CHECK(ready.weights.bytes() == group_bytes);
      CHECK(ready.weights.used_for() == purpose::weights);
    }
  CHECK(p.loads->asked == std::vector<std::size_t>{0, 1, 2});
  CHECK(p.leased(purpose::weights) == 3 * group_bytes);
  p.end();
  p.wait_until_given_back(purpose::weights);
}

TEST_CASE("a prefetcher does not load groups that compute kept") {
  const auto arbiter = memory_arbiter::make();
  arbiter->add_device("host:0", nullptr, group_bytes, group_bytes, 64);
  const auto kept = std::get<lease>(arbiter->try_acquire({"host:0", group_bytes, purpose::weights}));
  pipeline_fixture p(2, 0, 64 * group_bytes, {kept, {}});
  CHECK_FALSE(p.need(0).weights);
  CHECK(p.need(1).weights);
  CHECK(p.loads->asked == std::vector<std::size_t>{1});
}

TEST_CASE("a prefetcher passes on why a group can't be had, and has it once more when it is asked again") {
  pipeline_fixture p(1, 0, group_bytes / 2);
  CHECK_THROWS_WITH(p.need(0), Catch::Contains("host:0"));
  p.arbiter->set_budget("host:0", group_bytes);
  p.loads->failing = 1;
  CHECK_THROWS_WITH(p.need(0), "group 0 can't be read");
  p.wait_until_given_back(purpose::weights);
  CHECK(p.need(0).weights);
}

TEST_CASE("streamed groups pass through a prefetcher's slots, and a waiter hears when it ends") {
  pipeline_fixture p(1, 4);
  for (int step = 0; step < 3; ++step) {
    p.tell(cast::announce_step{true});
    for (std::size_t g = 1; g < 5; ++g) {
      CHECK(p.need(g).weights.used_for() == purpose::ring);
      p.tell(cast::release_group{g});
    }
  }
  (void)p.need(1);
  (void)p.need(2);
  CHECK(*p.slots == 2);
  p.tell(cast::shrink_ring{}); // two are the fewest
  caf::scoped_actor self(p.system().get());
  bool cancelled = false, gone = false;
  auto waits = cast::ask(self.ptr(), p.prefetcher, cast::need_group{4});
  p.tell(cast::abandon_step{});
  waits.receive([](const cast::group_ready&) {},
                [&](const caf::error& e) { cancelled = cast::from_caf(e).code() == errc::cancelled; });
  CHECK(cancelled);
  (void)p.need(1);
  (void)p.need(2);
  CHECK(*p.slots == 2);
  auto waits_for_ever = cast::ask(self.ptr(), p.prefetcher, cast::need_group{4});
  p.end();
  waits_for_ever.receive([](const cast::group_ready&) {}, [&](const caf::error& e) { gone = cast::is_gone(e); });
  CHECK(gone);
  p.wait_until_given_back(purpose::ring);
}
