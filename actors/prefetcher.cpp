// Group after group: lease, load, hand out.
#include "actors/prefetcher.hpp"

#include <optional>

namespace tropilla::cast {
namespace {

// Enough that the loader reads one group while the one before is still being packed; more only takes leases early.
constexpr std::size_t window = 3;

} // namespace

struct prefetcher_state {
  static inline const char* actor_name = "prefetcher";

  struct group_state {
    lease weights;
    bool resident = false;
    std::vector<caf::typed_response_promise<group_ready>> waiting;
  };

  prefetcher_state(prefetcher_actor::pointer s, prefetcher_setup setup)
      : self(s), with(std::move(setup)), groups(with.layout->groups.size()) {}

  prefetcher_actor::behavior_type behaviour() {
    fetch_more();
    return {
        [this](const need_group& m) -> caf::result<group_ready> { return need(m.group); },
        [this](const await_weights&) -> caf::result<weights_resident> {
          auto promise = self->make_response_promise<weights_resident>();
          all_waiting.push_back(promise);
          settle_all();
          return promise;
        },
    };
  }

  caf::typed_response_promise<group_ready> need(std::size_t index) {
    auto promise = self->make_response_promise<group_ready>();
    auto& g = groups[index];
    if (g.resident)
      promise.deliver(group_ready{index, g.weights, event{}});
    else if (failure)
      promise.deliver(to_caf(*failure));
    else
      g.waiting.push_back(promise);
    return promise;
  }

  /// Keeps `window` groups on their way. Leases are asked for in order, too, so that none waits behind a later one.
  void fetch_more() {
    while (!failure && next < groups.size() && next - resident < window) {
      const std::size_t index = next++;
      const memory_request request{with.device, with.layout->groups[index].bytes, purpose::weights, priority::normal};
      ask(self, with.memory, acquire_memory{request})
          .then([this, index](const memory_granted& m) { load(index, m.bytes); },
                [this](const caf::error& e) { fail(from_caf(e)); });
    }
  }

  void load(std::size_t index, const lease& destination) {
    groups[index].weights = destination;
    ask(self, with.loader, load_group{index, destination})
        .then([this](const group_loaded& m) { arrived(m.group); }, [this](const caf::error& e) { fail(from_caf(e)); });
  }

  void arrived(std::size_t index) {
    auto& g = groups[index];
    g.resident = true;
    ++resident;
    for (auto& promise : g.waiting)
      promise.deliver(group_ready{index, g.weights, event{}});
    g.waiting.clear();
    fetch_more();
    settle_all();
  }

  void fail(const error& why) {
    if (!failure)
      failure = why;
    for (auto& g : groups) {
      for (auto& promise : g.waiting)
        promise.deliver(to_caf(*failure));
      g.waiting.clear();
    }
    settle_all();
  }

  void settle_all() {
    if (!failure && resident < groups.size())
      return;
    for (auto& promise : all_waiting) {
      if (failure)
        promise.deliver(to_caf(*failure));
      else
        promise.deliver(weights_resident{});
    }
    all_waiting.clear();
  }

  prefetcher_actor::pointer self;
  prefetcher_setup with;
  std::vector<group_state> groups;
  std::size_t next = 0;     ///< first group that was not asked for
  std::size_t resident = 0; ///< groups in memory
  std::optional<error> failure;
  std::vector<caf::typed_response_promise<weights_resident>> all_waiting;
};

prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup) {
  return spawn<prefetcher_actor, prefetcher_state>(system, std::move(setup));
}

} // namespace tropilla::cast
