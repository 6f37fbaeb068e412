// Requests to the arbiter; its answers may come later, from the thread that gave bytes back.
#include "actors/memory_manager.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <new>
#include <unordered_map>

namespace tropilla::cast {

struct memory_manager_state {
  static constexpr const char* actor_name = "memory_manager";
  using clock = std::chrono::steady_clock;

  struct pending_request {
    pending_response<memory_granted> promise;
    std::uint64_t ticket = 0;
    clock::time_point waits_since{}; ///< where the log wants to know
  };

  memory_manager_state(memory_manager_actor::pointer s, std::shared_ptr<memory_arbiter> a, logger to)
      : self(s), arbiter(std::move(a)), log(std::move(to)) {}

  /// What nobody waits for any more must not stand before others in the arbiter's queue.
  ~memory_manager_state() {
    for (const auto& [id, p] : std::exchange(pending, {}))
      (void)arbiter->cancel(p.ticket);
  }

  memory_manager_actor::behavior_type behaviour() {
    return {
        [this](const acquire_memory& m) -> caf::result<memory_granted> {
          if (!m.waits)
            return try_acquire(m.request);
          return acquire(m.request);
        },
        [this](const grant_settled& m) { settle(m); },
        [this](const trim_memory& m) { arbiter->trim(m.device); },
    };
  }

  caf::result<memory_granted> try_acquire(const memory_request& request) const {
    auto answer = arbiter->try_acquire(request);
    if (auto* granted = std::get_if<lease>(&answer))
      return memory_granted{std::move(*granted)};
    const auto& why = std::get<refusal>(answer).message;
    log.debug("{}", why);
    return to_caf(error(errc::over_budget, why));
  }

  /// The arbiter may answer on any thread, so its answer comes back as a message: a promise belongs to its actor.
  caf::typed_response_promise<memory_granted> acquire(const memory_request& request) {
    const auto id = next_id++;
    pending_response<memory_granted> promise(self);
    auto later = promise.promise();
    pending.emplace(id, pending_request{std::move(promise)});
    const memory_manager_actor me = self;
    const auto answered = std::make_shared<std::atomic<bool>>(false);
    pending.at(id).ticket = arbiter->acquire(request, [me, id, answered](memory_arbiter::grant answer) {
      *answered = true;
      grant_settled m{id, {}, {}};
      if (auto* granted = std::get_if<lease>(&answer))
        m.granted = std::move(*granted);
      else
        m.refused = std::get<refusal>(answer).message;
      tell_from_outside(me, m);
    });
    if (!*answered && log.wants(log_level::debug))
      log_wait(request, pending.at(id));
    return later;
  }

  void log_wait(const memory_request& request, pending_request& p) {
    const auto now = arbiter->usage(request.device);
    log.debug("{} for {} wait until bytes of {} come back: {} of {} are in use", human_bytes{request.bytes},
              to_string(request.used_for), request.device, human_bytes{now.in_use}, human_bytes{now.budget});
    p.waits_since = clock::now();
  }

  void settle(const grant_settled& m) {
    const auto it = pending.find(m.id);
    if (it == pending.end())
      return;
    const auto& p = it->second;
    if (m.granted && p.waits_since != clock::time_point{})
      log.debug("{} are granted after {:.3f} s", human_bytes{m.granted.bytes()},
                std::chrono::duration<double>(clock::now() - p.waits_since).count());
    if (!m.granted)
      log.warning("{}", m.refused);
    if (m.granted)
      it->second.promise.deliver(memory_granted{m.granted});
    else
      it->second.promise.deliver(to_caf(error(errc::over_budget, m.refused)));
    pending.erase(it);
  }

  memory_manager_actor::pointer self;
  std::shared_ptr<memory_arbiter> arbiter;
  logger log;
  std::unordered_map<std::uint64_t, pending_request> pending;
  std::uint64_t next_id = 0;
};

memory_manager_actor spawn_memory_manager(caf::actor_system& system, std::shared_ptr<memory_arbiter> arbiter,
                                          logger log) {
  return spawn<memory_manager_actor, memory_manager_state>(system, std::move(arbiter), std::move(log));
}

std::shared_ptr<void> record_memory(memory_arbiter& arbiter, const std::string& device, tracer& to) {
  // Leases end on any thread, so the arbiter is what hears of it.
  return arbiter.observe(device, [&to, track = to.make_track("actor memory_manager " + device),
                                  counter = "memory " + device](const memory_change& change) noexcept {
    std::array<tracer::series, purpose_count> in_use;
    for (std::size_t p = 0; p < purpose_count; ++p)
      in_use[p] = {to_string(static_cast<purpose>(p)), static_cast<std::int64_t>(change.in_use[p])};
    const tracer::series bytes{change.granted ? "granted_bytes" : "returned_bytes",
                               static_cast<std::int64_t>(change.bytes)};
    const auto now = tracer::clock::now();
    try {
      if (change.offset)
        to.record(track, to_string(change.used_for), now, now, bytes,
                  {"offset", static_cast<std::int64_t>(*change.offset)});
      else
        to.record(track, to_string(change.used_for), now, now, bytes.name, bytes.value);
      to.counter(counter, now, in_use);
    } catch (const std::bad_alloc&) { // the trace lacks an event, and the lease is none the worse
    }
  });
}

} // namespace tropilla::cast
