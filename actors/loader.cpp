// A shell around weight_loader: promises for groups whose packing goes on.
#include "actors/loader.hpp"

#include <unordered_map>

namespace tropilla::cast {

struct loader_state {
  static inline const char* actor_name = "loader";

  loader_state(loader_actor::pointer s, loader_setup setup) : self(s), with(std::move(setup)) {
    for (std::size_t g = 0; g < with.streamed.size(); ++g)
      progress.bytes_total += counted_bytes(g);
    if (with.trace)
      row = with.trace->make_row("actor loader");
  }

  loader_actor::behavior_type behaviour() {
    return {
        [this](const load_group& m) -> caf::result<group_loaded> { return load(m); },
        [this](const group_packed& m) { finish(m); },
    };
  }

  caf::typed_response_promise<group_loaded> load(const load_group& m) {
    auto promise = self->make_response_promise<group_loaded>();
    const trace_span span(with.trace, row, "load_group", "group", static_cast<std::int64_t>(m.group));
    try {
      if (!loader)
        loader = std::make_unique<weight_loader>(*with.layout, with.files, *with.dev, with.shape, with.staging.data(),
                                                 with.trace);
      flights[m.group] = {promise, m.destination};
      const loader_actor me = self;
      loader->load(m.group, m.destination.data(), [me, group = m.group](const std::string& failure) {
        tell_from_outside(me, group_packed{group, failure});
      });
    } catch (const error& e) {
      flights.erase(m.group);
      promise.deliver(to_caf(e));
    }
    return promise;
  }

  [[nodiscard]] std::size_t counted_bytes(std::size_t group) const {
    return with.streamed[group] ? 0 : with.layout->groups[group].file_bytes;
  }

  void finish(const group_packed& m) {
    const auto it = flights.find(m.group);
    if (it == flights.end())
      return;
    if (m.failure.empty()) {
      progress.bytes_done += counted_bytes(m.group);
      if (with.on_progress && counted_bytes(m.group) > 0)
        with.on_progress(progress);
      it->second.promise.deliver(group_loaded{m.group, event{}}); // packed: an empty event is done
    } else {
      it->second.promise.deliver(to_caf(error(errc::malformed_file, m.failure)));
    }
    flights.erase(it);
  }

  struct flight {
    caf::typed_response_promise<group_loaded> promise;
    lease destination; ///< held while streams write to it, whatever happens to the one who asked
  };

  loader_actor::pointer self;
  loader_setup with;
  load_progress progress;
  tracer::row row = 0;
  std::unordered_map<std::size_t, flight> flights;
  std::unique_ptr<weight_loader> loader; ///< last: its streams finish before what they write to is given back
};

loader_actor spawn_loader(caf::actor_system& system, loader_setup setup) {
  return spawn<loader_actor, loader_state, caf::detached>(system, std::move(setup));
}

} // namespace tropilla::cast
