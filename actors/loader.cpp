// A shell around weight_loader: promises for what its threads do.
#include "actors/loader.hpp"

#include "kernels/threads.hpp"

#include <chrono>
#include <optional>
#include <unordered_map>
#include <utility>
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
    look_up_embedding what;
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
    setup.loader.mapping = setup.placement->mapping;
    setup.loader.is_streamed = [w = setup.placement](std::size_t group) { return w->streams(group); };
    if (setup.loader.trace)
      track = setup.loader.trace->make_track("actor loader");
    if (setup.staging_bytes == 0)
      loader.emplace(setup.loader);
  }

  loader_actor::behavior_type behaviour() {
    if (!loader)
      ask_for_staging();
    return {
        [this](const load_group& m) -> caf::result<group_loaded> {
          const trace_span span(setup.loader.trace, track, "load_group", "group", static_cast<std::int64_t>(m.group));
          return accept<pending_group, group_loaded>(m);
        },
        [this](const look_up_embedding& m) -> caf::result<embedding_ready> {
          const trace_span span(setup.loader.trace, track, "look_up_embedding", "rows",
                                static_cast<std::int64_t>(m.step->ids.size()));
          return accept<pending_rows, embedding_ready>(m);
        },
        [this](const transfer_done& m) { finish(m); },
        [this](const trim_staging&) { trim(); },
    };
  }

  // -- staging --------------------------------------------------------------------------------------------------------

  void ask_for_staging() {
    asking = true;
    ask(self, setup.memory,
        acquire_memory{
            {std::string(setup.loader.dev->name()), setup.staging_bytes, purpose::staging, priority::urgent}})
        .then([this](const memory_granted& m) { begin(m.bytes); },
              [this](const caf::error& e) {
                if (!is_gone(e)) // else its supervisor replaces it, and this one, too
                  refuse(from_caf(e));
              });
  }

  void begin(const lease& granted) {
    staging = granted;
    setup.loader.read_buffers = staging.data();
    loader.emplace(setup.loader);
    for (const auto id : std::exchange(waiting, {}))
      start(id);
  }

  void refuse(const error& why) {
    asking = false;
    for (const auto id : std::exchange(waiting, {}))
      answer(id, &why);
  }

  /// The lease stays: others could take the bytes, and a load that repairs what they wait for would wait for them.
  void trim() {
    const bool stays = setup.placement->plan.ring_slots > 0 || setup.placement->layout.embedding_on_disk();
    if (staging && pending.empty() && !stays)
      setup.loader.dev->trim(staging.data(), staging.bytes());
  }

  // -- requests -------------------------------------------------------------------------------------------------------

  template <class Pending, class Answer, class Request>
  caf::typed_response_promise<Answer> accept(const Request& m) {
    pending_response<Answer> promise(self);
    auto later = promise.promise();
    const auto id = next_id++;
    pending.emplace(id, Pending{std::move(promise), m});
    if (loader) {
      start(id);
    } else {
      waiting.push_back(id);
      if (!asking)
        ask_for_staging();
    }
    return later;
  }

  void start(std::uint64_t id) {
    std::visit([&](const auto& p) { start(id, p.what); }, pending.at(id));
  }
  void start(std::uint64_t id, const load_group& m) {
    if (setup.placement->mapping)
      loader->verify_mapped(m.group, m.destination.data(), answer_to(id));
    else
      loader->load(m.group, m.destination.data(), answer_to(id));
  }
  void start(std::uint64_t id, const look_up_embedding& m) { loader->look_up(m.step->ids, m.rows, answer_to(id)); }

  [[nodiscard]] weight_loader::done_callback answer_to(std::uint64_t id) const {
    const loader_actor me = self;
    return [me, id](const error* failure) {
      tell_from_outside(me, transfer_done{id, failure ? std::make_shared<const error>(*failure) : nullptr});
    };
  }

  [[nodiscard]] std::size_t counted_bytes(std::size_t group) const {
    return setup.placement->streams(group) ? 0 : setup.placement->layout.groups[group].file_bytes;
  }

  void finish(const transfer_done& m) { answer(m.id, m.failure.get()); }

  void answer(std::uint64_t id, const error* failure) {
    const auto it = pending.find(id);
    if (it == pending.end())
      return;
    auto done = std::move(it->second);
    pending.erase(it);
    std::visit(
        [&](auto& p) {
          if (failure)
            fail(p, *failure);
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
  std::vector<std::uint64_t> waiting; ///< requests for which there is no staging yet, in order
  bool asking = false;                ///< the memory manager
  lease staging;
  std::optional<weight_loader> loader; ///< last: its threads finish before what they write to is given back
};

loader_actor spawn_loader(caf::actor_system& system, loader_setup setup) {
  // Detached: its end waits for reads. CAF does not survive the refusal of its thread.
  require_threads(1, "reading weights");
  return spawn<loader_actor, loader_state, caf::detached>(system, std::move(setup));
}

} // namespace tropilla::cast
