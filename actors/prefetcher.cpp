// A shell around weight_ring: promises for those who need groups, and messages for what it says.
#include "actors/prefetcher.hpp"

#include "src/schedule/weight_ring.hpp"

#include <map>
#include <utility>
#include <variant>

namespace tropilla::cast {
namespace {

weight_ring_setup ring_setup(const prefetcher_setup& setup) {
  const auto& placement = *setup.placement;
  weight_ring_setup out;
  out.device = setup.device;
  for (std::size_t g = 0; g < placement.layout.groups.size(); ++g) {
    out.groups.push_back(placement.streams(g)                  ? group_kind::streamed
                         : placement.is_present(g, setup.kept) ? group_kind::no_load
                                                               : group_kind::resident);
  }
  out.norm_group = placement.layout.norm_group();
  out.slots = placement.plan.ring_slots;
  out.slot_bytes = placement.plan.slot_bytes;
  out.spare_bytes = placement.spare_bytes;
  out.log = setup.log;
  return out;
}

} // namespace

struct prefetcher_state {
  static constexpr const char* actor_name = "prefetcher";
  using clock = weight_ring::clock;

  prefetcher_state(prefetcher_actor::pointer s, prefetcher_setup given)
      : self(s), setup(std::move(given)), ring(ring_setup(setup)) {
    setup.kept.clear();
  }

  prefetcher_actor::behavior_type behaviour() {
    perform(ring.start());
    return {
        [this](const need_group& m) -> caf::result<group_ready> { return need(m); },
        [this](const release_group& m) { perform(ring.released(m.group, clock::now())); },
        [this](const announce_step& m) { perform(ring.step_announced(m.with_logits, clock::now())); },
        [this](const abandon_step&) { perform(ring.step_abandoned(clock::now())); },
        [this](const shrink_ring&) { perform(ring.shrink()); },
    };
  }

  caf::typed_response_promise<group_ready> need(const need_group& m) {
    pending_response<group_ready> promise(self);
    auto later = promise.promise();
    const auto who = next_waiter++;
    waiting.emplace(who, std::move(promise));
    perform(ring.needed(m.group, who, clock::now()));
    return later;
  }

  void perform(const weight_ring::actions& todo) {
    for (const auto& action : todo)
      std::visit([this](const auto& a) { perform(a); }, action);
  }

  void perform(const weight_ring::lease_group& a) {
    memory_request request{setup.device, setup.placement->block_bytes(a.group), purpose::weights, priority::normal};
    if (setup.placement->mapping)
      request.outside = outside_memory{setup.placement->mapped[a.group], setup.placement->mapping};
    acquire(
        std::move(request), [this, group = a.group](const lease& block) { return ring.group_leased(group, block); },
        [this, group = a.group](const error& why) { return ring.group_refused(group, why); });
  }

  void perform(const weight_ring::lease_slot&) {
    acquire(
        {setup.device, setup.placement->plan.slot_bytes, purpose::ring, priority::normal},
        [this](const lease& memory) { return ring.slot_leased(memory, clock::now()); },
        [this](const error& why) { return ring.slot_refused(why); });
  }

  void perform(const weight_ring::load& a) {
    ask(self, setup.loader, load_group{a.group, a.destination})
        .then([this](const group_loaded& m) { perform(ring.loaded(m.group, clock::now())); },
              [this, group = a.group](const caf::error& e) {
                if (!is_gone(e))
                  perform(ring.load_failed(group, from_caf(e), clock::now()));
              });
  }

  void perform(const weight_ring::deliver& a) {
    waiting.extract(a.to).mapped().deliver(group_ready{a.group, a.weights});
  }
  void perform(const weight_ring::fail& a) { waiting.extract(a.to).mapped().deliver(to_caf(a.why)); }
  void perform(const weight_ring::count_slots& a) { *setup.slots = a.slots; }

  template <class Granted, class Refused>
  void acquire(memory_request request, Granted granted, Refused refused) {
    ask(self, setup.memory, acquire_memory{std::move(request)})
        .then([this, granted](const memory_granted& m) { perform(granted(m.bytes)); },
              [this, refused](const caf::error& e) {
                if (!is_gone(e)) // else its supervisor replaces it, and this one, too
                  perform(refused(from_caf(e)));
              });
  }

  prefetcher_actor::pointer self;
  prefetcher_setup setup;
  weight_ring ring;
  std::map<weight_ring::waiter, pending_response<group_ready>> waiting;
  weight_ring::waiter next_waiter = 0;
};

prefetcher_actor spawn_prefetcher(caf::actor_system& system, prefetcher_setup setup) {
  return spawn<prefetcher_actor, prefetcher_state>(system, std::move(setup));
}

} // namespace tropilla::cast
