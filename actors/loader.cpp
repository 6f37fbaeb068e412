// A shell around weight_loader: promises for what its threads do.
#include "actors/loader.hpp"

#include "kernels/threads.hpp"

#include <chrono>
#include <unordered_map>
#include <variant>

namespace tropilla::cast {

struct loader_state {
  static constexpr const char* actor_name = "loader";

  struct pending_group {
    pending_response<group_loaded> promise;
    load_group what; ///< its destination is held while it is written to, whatever happens to the one who asked
  };
  struct pending_rows {
    pending_response<embedding_ready> promise;
    std::shared_ptr<const tropilla::step> step;
  };

  loader_state(loader_actor::pointer s, loader_setup given) : self(s), setup(std::move(given)) {
    for (std::size_t g = 0; g < setup.placement->layout.groups.size(); ++g) {
      progress.bytes_total += counted_bytes(g);
      if (g < setup.kept.size() && setup.kept[g])
        progress.bytes_done += counted_bytes(g);
    }
    setup.kept.clear();
    setup.loader.layout = &setup.placement->layout;
    setup.loader.shape = setup.placement->loading;
    setup.loader.read_buffers = setup.staging.data();
    setup.loader.mapping = setup.placement->mapping;
    setup.loader.is_streamed = [w = setup.placement](std::size_t group) { return w->streams(group); };
    if (setup.loader.trace)
      track = setup.loader.trace->make_track("actor loader");
    loader.emplace(setup.loader);
  }

  loader_actor::behavior_type behaviour() {
    return {
        [this](const load_group& m) -> caf::result<group_loaded> { return load(m); },
        [this](const look_up_embedding& m) -> caf::result<embedding_ready> { return look_up(m); },
        [this](const transfer_done& m) { finish(m); },
    };
  }

  caf::typed_response_promise<group_loaded> load(const load_group& m) {
    const trace_span span(setup.loader.trace, track, "load_group", "group", static_cast<std::int64_t>(m.group));
    pending_response<group_loaded> promise(self);
    auto later = promise.promise();
    const auto id = next_id++;
    pending.emplace(id, pending_group{std::move(promise), m});
    if (setup.placement->mapping)
      loader->verify_mapped(m.group, m.destination.data(), answer_to(id));
    else
      loader->load(m.group, m.destination.data(), answer_to(id));
    return later;
  }

  caf::typed_response_promise<embedding_ready> look_up(const look_up_embedding& m) {
    const trace_span span(setup.loader.trace, track, "look_up_embedding", "rows",
                          static_cast<std::int64_t>(m.step->ids.size()));
    pending_response<embedding_ready> promise(self);
    auto later = promise.promise();
    const auto id = next_id++;
    pending.emplace(id, pending_rows{std::move(promise), m.step});
    loader->look_up(m.step->ids, m.rows, answer_to(id));
    return later;
  }

  [[nodiscard]] weight_loader::done_callback answer_to(std::uint64_t id) const {
    const loader_actor me = self;
    return [me, id](const error* failure) {
      tell_from_outside(me, transfer_done{id, failure ? std::make_shared<const error>(*failure) : nullptr});
    };
  }

  [[nodiscard]] std::size_t counted_bytes(std::size_t group) const {
    return setup.placement->streams(group) ? 0 : setup.placement->layout.groups[group].file_bytes;
  }

  void finish(const transfer_done& m) {
    const auto it = pending.find(m.id);
    if (it == pending.end())
      return;
    auto done = std::move(it->second);
    pending.erase(it);
    std::visit(
        [&](auto& p) {
          if (m.failure)
            fail(p, *m.failure);
          else
            succeed(p);
        },
        done);
  }

  void fail(auto& p, const error& why) {
    setup.loader.log.log(why.code() == errc::cancelled ? log_level::debug : log_level::error, "weights of {}: {}",
                         setup.loader.dev->name(), why.what());
    p.promise.deliver(to_caf(why));
  }

  void succeed(pending_group& p) {
    const std::size_t group = p.what.group;
    progress.bytes_done += counted_bytes(group);
    if (counted_bytes(group) > 0 && progress.bytes_done == progress.bytes_total)
      setup.loader.log.info("{}: all weights that stay in memory are there, {} in {:.3f} s", setup.loader.dev->name(),
                            human_bytes{progress.bytes_total},
                            std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    if (setup.on_progress && counted_bytes(group) > 0)
      setup.on_progress(progress);
    p.promise.deliver(group_loaded{group});
  }
  void succeed(pending_rows& p) { p.promise.deliver(embedding_ready{}); }

  loader_actor::pointer self;
  loader_setup setup;
  load_progress progress;
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  tracer::track track = 0;
  std::unordered_map<std::uint64_t, std::variant<pending_group, pending_rows>> pending;
  std::uint64_t next_id = 0;
  std::optional<weight_loader> loader; ///< last: its threads finish before what they write to is given back
};

loader_actor spawn_loader(caf::actor_system& system, loader_setup setup) {
  // Detached: its end waits for reads. CAF does not survive the refusal of its thread.
  require_threads(1, "reading weights");
  return spawn<loader_actor, loader_state, caf::detached>(system, std::move(setup));
}

} // namespace tropilla::cast
