// A runtime behind one typed actor, for programs with an actor system of their own.
#include "actors/messages.hpp"
#include "runtime/runtime_impl.hpp"
#include "tropilla/actors.hpp"

#include <atomic>
#include <map>
#include <set>

namespace tropilla::cast {

/// What the engine itself understands: its public messages and word of replies that ended.
using engine_self =
    typed_actor<caf::result<void>(generate_reply), caf::result<void>(stop_reply), caf::result<void>(pieces_read),
                caf::result<engine_status>(query_engine), caf::result<void>(reply_over)>;

/// Pieces of a reply on their way to its client.
struct reply_window {
  std::size_t max_unread = 0; ///< 0: any number
  std::atomic<std::size_t> unread = 0;
};

/// Passes a reply on to its client, from the scheduler.
class client_sink final : public reply_sink {
public:
  client_sink(engine_client client, std::uint64_t tag, engine_self engine, std::shared_ptr<reply_window> window)
      : client_(std::move(client)), tag_(tag), engine_(std::move(engine)), window_(std::move(window)) {}

  void bind(request_id id) noexcept { id_ = id; }

  client_wants token(piece p) override {
    tell_from_outside(client_, reply_piece{tag_, std::move(p)});
    const bool room = ++window_->unread < window_->max_unread || window_->max_unread == 0;
    return room ? client_wants::more : client_wants::room_for_pieces;
  }
  void logits(std::size_t, std::size_t, std::span<const float>) override {} // engines do not score
  void finished(const generation_statistics& s) override {
    tell_from_outside(client_, reply_finished{tag_, s});
    tell_from_outside(engine_, reply_over{id_});
  }
  void failed(const error& why) override {
    tell_from_outside(client_, reply_failed{tag_, why.code(), why.what()});
    tell_from_outside(engine_, reply_over{id_});
  }

private:
  engine_client client_;
  std::uint64_t tag_;
  engine_self engine_;
  std::shared_ptr<reply_window> window_;
  request_id id_ = 0;
};

struct engine_state {
  static constexpr const char* actor_name = "engine";

  engine_state(engine_self::pointer s, std::shared_ptr<runtime_impl> p) : self(s), rt(std::move(p)) {}
  ~engine_state() { rt->shut_down(); }

  engine_self::behavior_type behaviour() {
    return {
        [this](const generate_reply& m) { generate(m); },
        [this](const stop_reply& m) {
          for (const auto& [id, reply] : running)
            if (reply.client == m.client && reply.tag == m.tag)
              stop(id, reply);
        },
        [this](const pieces_read& m) {
          for (const auto& [id, reply] : running)
            if (reply.client == m.client && reply.tag == m.tag)
              reply.window->unread -= std::min(m.count, reply.window->unread.load()); // only this actor takes away
        },
        [this](const query_engine&) -> caf::result<engine_status> {
          return engine_status{rt->facts, rt->report, rt->memory(), running.size()};
        },
        [this](const reply_over& m) { forget(m.id); },
    };
  }

  void generate(const generate_reply& m) {
    sequence_request request;
    const auto window = std::make_shared<reply_window>();
    window->max_unread = m.window;
    try {
      const auto sink = std::make_shared<client_sink>(m.client, m.tag, engine_self(self), window);
      request = rt->make_request(encode(m), m.options, false, sink);
      sink->bind(request.id);
    } catch (const error& e) {
      tell(self, m.client, reply_failed{m.tag, e.code(), e.what()});
      return;
    }
    const auto id = request.id;
    const auto client = caf::actor_cast<caf::actor>(m.client);
    running.emplace(id, running_reply{m.client, m.tag, window, request.abandoned});
    if (clients.insert(client.address()).second)
      others.watch(self, client, [this, address = client.address()](const caf::error&) { client_gone(address); });
    try {
      (void)rt->submit(std::move(request)); // short, and the engine has a thread of its own
    } catch (const error& e) {
      tell(self, m.client, reply_failed{m.tag, e.code(), e.what()});
      forget(id);
    }
  }

  [[nodiscard]] std::vector<token_id> encode(const generate_reply& m) const {
    if (const auto* messages = std::get_if<std::vector<chat_message>>(&m.prompt))
      return rt->encode(*messages);
    if (const auto* text = std::get_if<std::string>(&m.prompt))
      return rt->encode(*text, false);
    return std::get<std::vector<token_id>>(m.prompt);
  }

  void client_gone(const caf::actor_addr& address) {
    for (const auto& [id, reply] : running)
      if (reply.client.address() == address)
        stop(id, reply);
    clients.erase(address);
  }

  void forget(request_id id) { running.erase(id); }

  struct running_reply {
    engine_client client;
    std::uint64_t tag = 0;
    std::shared_ptr<reply_window> window;
    std::shared_ptr<std::atomic<bool>> abandoned;
  };

  /// The flag holds also where the message finds a scheduler that is busy or being replaced.
  void stop(request_id id, const running_reply& reply) {
    *reply.abandoned = true;
    rt->cancel(id);
  }

  engine_self::pointer self;
  std::shared_ptr<runtime_impl> rt;
  std::map<request_id, running_reply> running;
  std::set<caf::actor_addr> clients; ///< that are watched
  watcher others;
};

} // namespace tropilla::cast

namespace tropilla {

engine_actor spawn_engine(caf::actor_system& system, runtime_config config) {
  auto rt = std::make_shared<runtime_impl>(std::move(config), &system);
  // A thread of its own: closing waits for the cast, and encoding a long prompt should hold up nobody.
  return cast::spawn<cast::engine_self, cast::engine_state, caf::detached>(system, std::move(rt));
}

} // namespace tropilla
