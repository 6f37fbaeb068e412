// Group after group: lease, load, hand out. Those that stay once, those that are streamed round and round.
#include "actors/prefetcher.hpp"

#include "actors/ring_depth.hpp"

#include <algorithm>
#include <optional>

namespace tropilla::cast {
namespace {

// Enough that pages of later groups are made while earlier ones are read, packed and compared: with three the first
// token of SmolLM2-135M comes 5% later. More only takes leases early.
constexpr std::size_t window = 12;
/// One is computed with while the other is filled.
constexpr std::size_t min_slots = 2;

} // namespace

struct prefetcher_state {
  static constexpr const char* actor_name = "prefetcher";

  struct group_state {
    lease weights; ///< of a group that stays
    bool ready = false;
    bool asked = false; ///< of the loader
    std::vector<pending_response<group_ready>> waiting;
  };

  /// Of the ring. A slot is filled, handed out, and free again when compute says so.
  struct slot {
    lease memory;
    std::optional<std::size_t> group;
    bool loading = false;
    bool held = false;  ///< by compute
    bool stale = false; ///< what is loading is not wanted any more
    depth_clock::time_point delivered{};
  };

  prefetcher_state(prefetcher_actor::pointer s, prefetcher_setup given)
      : self(s), setup(std::move(given)), groups(setup.weights->layout.groups.size()),
        depth(setup.weights->plan.ring_slots, setup.weights->spare_bytes, setup.weights->plan.slot_bytes) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (setup.weights->streams(g)) {
        circle.push_back(g);
        first_of_output += g < setup.weights->layout.norm_group() ? 1 : 0;
        continue;
      }
      groups[g].ready = setup.weights->layout.groups[g].bytes == 0 || (g < setup.kept.size() && setup.kept[g]);
      if (!groups[g].ready)
        staying.push_back(g);
    }
    turn = circle.size();
    setup.kept.clear();
  }

  prefetcher_actor::behavior_type behaviour() {
    fetch_staying();
    for (std::size_t i = 0; i < setup.weights->plan.ring_slots; ++i)
      add_slot();
    return {
        [this](const need_group& m) -> caf::result<group_ready> { return need(m.group); },
        [this](const release_group& m) { release(m.group); },
        [this](const begin_step& m) { begin(m); },
        [this](const abandon_step&) { abandon(); },
        [this](const shrink_ring&) { shrink(); },
    };
  }

  caf::typed_response_promise<group_ready> need(std::size_t index) {
    pending_response<group_ready> promise(self);
    auto later = promise.promise();
    auto& g = groups[index];
    if (g.ready) {
      deliver(promise, index);
      return later;
    }
    g.waiting.push_back(std::move(promise));
    if (setup.weights->streams(index)) {
      for (; slots_refused > 0; --slots_refused)
        add_slot();
      unblock();
    } else if (!g.asked && std::find(staying.begin() + static_cast<std::ptrdiff_t>(next_staying), staying.end(),
                                     index) == staying.end()) {
      staying.push_back(index); // it failed before: once more
      fetch_staying();
    }
    return later;
  }

  void deliver(pending_response<group_ready>& promise, std::size_t index) {
    if (setup.weights->streams(index)) {
      const auto s = slot_of(index);
      if (!s->held)
        s->delivered = depth_clock::now();
      s->held = true;
      promise.deliver(group_ready{index, slot_of(index)->memory});
    } else {
      promise.deliver(group_ready{index, groups[index].weights});
    }
  }

  [[nodiscard]] std::vector<slot>::iterator slot_of(std::size_t index) {
    return std::find_if(ring.begin(), ring.end(), [index](const slot& s) { return s.group == index; });
  }

  template <class F, class G>
  void acquire(memory_request request, F granted, G refused) {
    ask(self, setup.memory, acquire_memory{std::move(request)})
        .then([granted](const memory_granted& m) { granted(m.bytes); },
              [refused](const caf::error& e) {
                if (!is_gone(e)) // else its supervisor replaces it, and this one, too
                  refused(from_caf(e));
              });
  }

  // -- groups that stay ----

  /// Keeps `window` of them on their way. Leases are asked for in order, too, so that none waits behind a later one.
  void fetch_staying() {
    while (next_staying < staying.size() && on_their_way < window) {
      const std::size_t index = staying[next_staying++];
      ++on_their_way;
      groups[index].asked = true;
      memory_request request{setup.device, setup.weights->block_bytes(index), purpose::weights, priority::normal};
      if (setup.weights->mapping)
        request.outside = outside_memory{setup.weights->mapped[index], setup.weights->mapping};
      acquire(
          std::move(request),
          [this, index](const lease& memory) {
            groups[index].weights = memory;
            load(index, memory, [this, index](const error* failure) { staying_arrived(index, failure); });
          },
          [this, index](const error& why) { staying_arrived(index, &why); });
    }
  }

  void staying_arrived(std::size_t index, const error* failure) {
    auto& g = groups[index];
    --on_their_way;
    g.asked = false;
    if (failure)
      g.weights.reset();
    settle(index, failure);
    fetch_staying();
  }

  /// Answers those who wait for a group.
  void settle(std::size_t index, const error* failure) {
    auto& g = groups[index];
    g.ready = !failure;
    for (auto& promise : std::exchange(g.waiting, {})) {
      if (failure)
        promise.deliver(to_caf(*failure));
      else
        deliver(promise, index);
    }
  }

  template <class F>
  void load(std::size_t index, const lease& destination, F arrived) {
    ask(self, setup.loader, load_group{index, destination})
        .then([arrived](const group_loaded&) { arrived(nullptr); },
              [arrived](const caf::error& e) {
                const auto why = from_caf(e);
                if (!is_gone(e))
                  arrived(&why);
              });
  }

  // -- the ring ----

  void add_slot() {
    acquire(
        {setup.device, setup.weights->plan.slot_bytes, purpose::ring, priority::normal},
        [this](const lease& memory) {
          ring.push_back({memory, std::nullopt});
          *setup.slots = ring.size();
          fill();
        },
        [this](const error& why) { slot_refused(why); });
  }

  /// Which no plan that fits leads to. It is asked for again with the next step.
  void slot_refused(const error& why) {
    setup.log.warning("a slot of the ring is refused and asked for again in the next step: {}", why.what());
    ++slots_refused;
    for (const auto g : circle)
      if (!groups[g].waiting.empty() && slot_of(g) == ring.end())
        settle(g, &why);
  }

  /// Fills the free slots with the streamed groups that a step needs next; behind the last one comes the first again,
  /// for the next step.
  void fill() {
    for (auto& s : ring) {
      if (s.group)
        continue;
      const auto next = next_of_circle();
      if (!next)
        return;
      s.group = *next;
      s.loading = true;
      const auto asked = depth_clock::now();
      load(*next, s.memory, [this, index = *next, asked](const error* failure) {
        depth.arrived(asked, depth_clock::now());
        streamed_arrived(index, failure);
      });
    }
  }

  [[nodiscard]] std::size_t position_of(std::size_t index) const {
    return static_cast<std::size_t>(std::find(circle.begin(), circle.end(), index) - circle.begin());
  }

  void begin(const begin_step& m) {
    turn = m.output ? circle.size() : first_of_output;
    fill();
  }

  /// The next group in the circle that no slot has, if there is one.
  std::optional<std::size_t> next_of_circle() {
    for (std::size_t tries = 0; tries < turn; ++tries) {
      if (cursor >= turn)
        cursor = 0;
      const std::size_t index = circle[cursor++];
      if (slot_of(index) == ring.end())
        return index;
    }
    return std::nullopt;
  }

  void streamed_arrived(std::size_t index, const error* failure) {
    auto& s = *slot_of(index);
    s.loading = false;
    const bool stale = std::exchange(s.stale, false);
    if (failure) {
      free_slot(s);
      cursor = position_of(index);
      settle(index, failure);
      return; // who waited gives the step up; who comes later has it tried again
    }
    if (stale) // even if it is waited for by now: out of its turn it would keep a slot from those before it
      free_slot(s);
    else
      settle(index, nullptr);
    fill();
    unblock();
  }

  void free_slot(slot& s) {
    groups[*s.group].ready = false;
    s.group.reset();
    s.held = false;
  }

  void release(std::size_t index) {
    const auto s = slot_of(index);
    if (s == ring.end() || !s->held)
      return;
    const std::size_t next = circle[(position_of(index) + 1) % std::max<std::size_t>(1, turn)];
    depth.released(s->delivered, depth_clock::now(), groups[next].ready);
    free_slot(*s);
    adjust_depth();
    fill();
    unblock();
  }

  /// When what is waited for has no slot, and none will come free by itself, the ring holds what nobody asked for.
  void unblock() {
    const auto awaited = std::find_if(circle.begin(), circle.end(), [this](std::size_t g) {
      return !groups[g].waiting.empty() && slot_of(g) == ring.end();
    });
    if (awaited == circle.end())
      return;
    for (const auto& s : ring)
      if (!s.group || s.loading || s.held)
        return fill();
    start_over(static_cast<std::size_t>(awaited - circle.begin()), false);
  }

  /// `all`: what compute was given, too.
  void start_over(std::size_t at, bool all) {
    cursor = at;
    for (auto& s : ring) {
      if (s.loading) // among the first that are needed it comes just right
        s.stale = (position_of(*s.group) + circle.size() - at) % circle.size() >= ring.size();
      else if (s.group && (!s.held || all))
        free_slot(s);
    }
    fill();
  }

  void abandon() {
    setup.log.debug("{}: the step was given up, and the ring begins anew", setup.device);
    const error why(errc::cancelled, "the step was given up");
    for (const auto g : circle)
      for (auto& promise : std::exchange(groups[g].waiting, {}))
        promise.deliver(to_caf(why));
    start_over(0, true);
  }

  /// Between two fillings, so that a slot that goes is empty.
  void adjust_depth() {
    switch (depth.advice(ring.size())) {
    case ring_depth::change::none:
      return;
    case ring_depth::change::grow:
      setup.log.debug("{}: the ring gets a slot more than its {}, for steps wait for weights", setup.device,
                      ring.size());
      return add_slot();
    case ring_depth::change::shrink:
      setup.log.debug("{}: the ring gives up one of its {} slots, for no step waited for weights lately", setup.device,
                      ring.size());
      return drop_slot();
    }
  }

  void drop_slot() {
    const auto s = std::find_if(ring.begin(), ring.end(), [](const slot& other) { return !other.group; });
    if (s == ring.end())
      return;
    ring.erase(s);
    *setup.slots = ring.size();
  }

  /// Somebody needs the bytes more. What was loaded last goes: it is needed last.
  void shrink() {
    if (ring.size() <= min_slots)
      return;
    setup.log.debug("{}: the ring gives up one of its {} slots, for others need the bytes", setup.device, ring.size());
    for (auto s = ring.rbegin(); s != ring.rend(); ++s) // NOLINT(modernize-loop-convert): clang 14 knows no such view
      if (s->group && !s->held && !s->loading && groups[*s->group].waiting.empty()) {
        cursor = position_of(*s->group);
        free_slot(*s);
        break;
      }
    drop_slot();
  }

  prefetcher_actor::pointer self;
  prefetcher_setup setup;
  std::vector<group_state> groups;
  std::vector<std::size_t> staying; ///< groups that stay and are to be fetched, in the order of need
  std::size_t next_staying = 0;     ///< of these, the first that was not asked for
  std::size_t on_their_way = 0;
  std::vector<std::size_t> circle; ///< groups that are streamed, in the order of need
  std::size_t cursor = 0;          ///< of the circle: what is loaded next
  std::size_t turn = 0;            ///< how much of the circle the step needs
  std::size_t first_of_output = 0; ///< in the circle: from here on only logits need it
  std::vector<slot> ring;
  std::size_t slots_refused = 0;
  ring_depth depth;
};

prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup) {
  return spawn<prefetcher_actor, prefetcher_state>(system, std::move(setup));
}

} // namespace tropilla::cast
