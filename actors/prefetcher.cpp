// Group after group: lease, load, hand out. Those that stay once, those that are streamed round and round.
#include "actors/prefetcher.hpp"

#include <algorithm>
#include <optional>

namespace tropilla::cast {
namespace {

// Enough that the loader reads one group while the one before is still being packed; more only takes leases early.
constexpr std::size_t window = 3;

} // namespace

struct prefetcher_state {
  static inline const char* actor_name = "prefetcher";

  struct group_state {
    lease weights; ///< of a group that stays
    bool ready = false;
    std::vector<caf::typed_response_promise<group_ready>> waiting;
  };

  /// Of the ring. A slot is filled, handed out, and free again when compute says so.
  struct slot {
    lease memory;
    std::optional<std::size_t> group;
  };

  prefetcher_state(prefetcher_actor::pointer s, prefetcher_setup setup)
      : self(s), with(std::move(setup)), groups(with.layout->groups.size()) {
    for (std::size_t g = 0; g < groups.size(); ++g)
      (with.streamed[g] ? circle : staying).push_back(g);
  }

  prefetcher_actor::behavior_type behaviour() {
    fetch_staying();
    for (std::size_t i = 0; i < with.ring_slots; ++i)
      acquire(with.slot_bytes, purpose::ring, [this](const lease& memory) {
        ring.push_back({memory, std::nullopt});
        fetch_streamed();
      });
    return {
        [this](const need_group& m) -> caf::result<group_ready> { return need(m.group); },
        [this](const release_group& m) { release(m.group); },
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
    if (g.ready)
      promise.deliver(ready_message(index));
    else if (failure)
      promise.deliver(to_caf(*failure));
    else
      g.waiting.push_back(promise);
    return promise;
  }

  [[nodiscard]] group_ready ready_message(std::size_t index) {
    return {index, with.streamed[index] ? slot_of(index)->memory : groups[index].weights, event{}};
  }

  [[nodiscard]] std::vector<slot>::iterator slot_of(std::size_t index) {
    return std::find_if(ring.begin(), ring.end(), [index](const slot& s) { return s.group == index; });
  }

  template <class F>
  void acquire(std::size_t bytes, purpose why, F granted) {
    ask(self, with.memory, acquire_memory{{with.device, bytes, why, priority::normal}})
        .then([granted](const memory_granted& m) { granted(m.bytes); },
              [this](const caf::error& e) { fail(from_caf(e)); });
  }

  /// Keeps `window` groups that stay on their way. Leases are asked for in order, too, so that none waits behind a
  /// later one.
  void fetch_staying() {
    while (!failure && next_staying < staying.size() && next_staying - resident < window) {
      const std::size_t index = staying[next_staying++];
      acquire(with.layout->groups[index].bytes, purpose::weights, [this, index](const lease& memory) {
        groups[index].weights = memory;
        load(index, memory);
      });
    }
  }

  /// Fills the free slots with the streamed groups that a step needs next; behind the last one comes the first again,
  /// for the next step.
  void fetch_streamed() {
    for (auto& s : ring) {
      if (failure || s.group)
        continue;
      s.group = circle[next_streamed++ % circle.size()];
      load(*s.group, s.memory);
    }
  }

  void load(std::size_t index, const lease& destination) {
    ask(self, with.loader, load_group{index, destination})
        .then([this](const group_loaded& m) { arrived(m.group); }, [this](const caf::error& e) { fail(from_caf(e)); });
  }

  void arrived(std::size_t index) {
    auto& g = groups[index];
    g.ready = true;
    for (auto& promise : std::exchange(g.waiting, {}))
      promise.deliver(ready_message(index));
    if (with.streamed[index])
      return;
    ++resident;
    fetch_staying();
    settle_all();
  }

  void release(std::size_t index) {
    groups[index].ready = false;
    slot_of(index)->group.reset();
    fetch_streamed();
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
    if (!failure && resident < staying.size())
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
  std::vector<std::size_t> staying; ///< groups that stay, in the order of need
  std::size_t next_staying = 0;     ///< of these, the first that was not asked for
  std::size_t resident = 0;         ///< of these, how many are in memory
  std::vector<std::size_t> circle;  ///< groups that are streamed, in the order of need
  std::size_t next_streamed = 0;    ///< counts on from step to step
  std::vector<slot> ring;
  std::optional<error> failure;
  std::vector<caf::typed_response_promise<weights_resident>> all_waiting;
};

prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup) {
  return spawn<prefetcher_actor, prefetcher_state>(system, std::move(setup));
}

} // namespace tropilla::cast
