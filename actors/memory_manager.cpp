// Requests to the ledger; its answers may come later, from the thread that gave bytes back.
#include "actors/memory_manager.hpp"

#include <unordered_map>

namespace tropilla::cast {

struct memory_manager_state {
  static inline const char* actor_name = "memory_manager";

  memory_manager_state(memory_manager_actor::pointer s, std::shared_ptr<arbiter> l) : self(s), ledger(std::move(l)) {}

  /// What nobody waits for any more must not stand before others in the ledger's queue.
  ~memory_manager_state() {
    for (const auto& [id, p] : std::exchange(pending, {}))
      (void)ledger->cancel(p.ticket);
  }

  memory_manager_actor::behavior_type behaviour() {
    return {
        [this](const acquire_memory& m) -> caf::result<memory_granted> { return acquire(m.request); },
        [this](const query_memory&) -> caf::result<memory_usage> { return memory_usage{ledger->usage()}; },
        [this](const grant_settled& m) { settle(m); },
    };
  }

  /// The ledger may answer on any thread, so its answer comes back as a message: a promise belongs to its actor.
  caf::typed_response_promise<memory_granted> acquire(const memory_request& request) {
    const auto id = next_id++;
    auto promise = self->make_response_promise<memory_granted>();
    pending.emplace(id, pending_request{promise, {}});
    const memory_manager_actor me = self;
    pending.at(id).ticket = ledger->acquire(request, [me, id](arbiter::grant answer) {
      grant_settled m{id, {}, {}};
      if (auto* granted = std::get_if<lease>(&answer))
        m.granted = std::move(*granted);
      else
        m.refused = std::get<refusal>(answer).message;
      tell_from_outside(me, std::move(m));
    });
    return promise;
  }

  void settle(const grant_settled& m) {
    const auto it = pending.find(m.id);
    if (it == pending.end())
      return;
    if (m.granted)
      it->second.promise.deliver(memory_granted{m.granted});
    else
      it->second.promise.deliver(to_caf(error(errc::over_budget, m.refused)));
    pending.erase(it);
  }

  memory_manager_actor::pointer self;
  std::shared_ptr<arbiter> ledger;
  struct pending_request {
    caf::typed_response_promise<memory_granted> promise;
    std::uint64_t ticket = 0;
  };
  std::unordered_map<std::uint64_t, pending_request> pending;
  std::uint64_t next_id = 0;
};

memory_manager_actor spawn_memory_manager(caf::actor_system& system, std::shared_ptr<arbiter> ledger) {
  return spawn<memory_manager_actor, memory_manager_state>(system, std::move(ledger));
}

} // namespace tropilla::cast
