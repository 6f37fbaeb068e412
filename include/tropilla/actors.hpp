/// Lets a program with a `caf::actor_system` of its own run a model as one typed actor among its actors.
///
///     // Asks the engine, prints the reply as it comes, and ends with it.
///     using client = tropilla::engine_client;
///     client::behavior_type ask(client::pointer self, const tropilla::engine_actor& engine) {
///       tropilla::tell_from_outside(engine, tropilla::generate_reply{.client = self, .prompt = "The sky is"});
///       return {
///           [](const tropilla::reply_piece& m) { std::cout << m.next.text << std::flush; },
///           [self](const tropilla::reply_finished&) { self->quit(); },
///           [self](const tropilla::reply_failed& m) {
///             std::cerr << m.message << "\n";
///             self->quit();
///           },
///       };
///     }
///
///     void run(const std::filesystem::path& model) {
///       tropilla::register_messages(); // before the actor system is made
///       caf::actor_system_config config;
///       caf::actor_system system(config);
///       auto engine = tropilla::spawn_engine(system, {.model = model});
///       caf::scoped_actor self(system);
///       self->wait_for(system.spawn(ask, engine));
///       tropilla::send_exit(engine); // the system waits for it
///     }
///
/// The reply comes to `client` as `reply_piece`s and then one of `reply_finished` and `reply_failed`. Messages stay in
/// the process.
#pragma once

#include "tropilla/runtime.hpp"
#include "tropilla/typed_actor.hpp"

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace tropilla {

/// Engine -> client: the next token's text, whole UTF-8 characters only.
struct TROPILLA_API reply_piece {
  std::uint64_t tag = 0;
  piece next;
};

/// Engine -> client: the reply is complete (or cancelled: `statistics.finish`).
struct TROPILLA_API reply_finished {
  std::uint64_t tag = 0;
  generation_statistics statistics;
};

/// Engine -> client: no reply, or no more of it.
struct TROPILLA_API reply_failed {
  std::uint64_t tag = 0;
  errc code{};
  std::string message;
};

/// The messages that a client must understand; handles of actors that understand more convert to it.
using engine_client =
    typed_actor<caf::result<void>(reply_piece), caf::result<void>(reply_finished), caf::result<void>(reply_failed)>;

/// Client -> engine. Everything that goes wrong, from the start on, comes as `reply_failed`.
/// A client that ends takes its replies with it: their memory goes back at once.
struct TROPILLA_API generate_reply {
  engine_client client;
  std::uint64_t tag = 0; ///< chosen by the client, unique among its replies that run
  /// A conversation (through the chat template), raw text, or ids as they are.
  std::variant<std::vector<chat_message>, std::string, std::vector<token_id>> prompt{};
  generation_options options{};
  /// Pieces that may be on their way unread: the client tells with `pieces_read` what it has dealt with, and a reply
  /// that runs further ahead is ended with `reply_failed`. 0: no limit.
  std::size_t window = 0;
};

/// Client -> engine, for a reply with a window: it has dealt with so many more pieces.
struct TROPILLA_API pieces_read {
  engine_client client;
  std::uint64_t tag = 0;
  std::size_t count = 0;
};

/// Client -> engine: end the reply. It still ends with `reply_finished`; unknown ones are ignored.
struct TROPILLA_API stop_reply {
  engine_client client;
  std::uint64_t tag = 0;
};

/// Anyone -> engine. Answered with `engine_status`.
struct TROPILLA_API query_engine {};
struct TROPILLA_API engine_status {
  model_facts model;
  plan_report plan;
  std::vector<memory_report> memory;
  std::size_t running = 0; ///< replies
};

using engine_actor = typed_actor<caf::result<void>(generate_reply), caf::result<void>(stop_reply),
                                 caf::result<void>(pieces_read), caf::result<engine_status>(query_engine)>;

/// Makes tropilla's messages known to CAF. Call it before the actor system is made; needed by CAF 1.x.
TROPILLA_API void register_messages();

/// Opens a runtime whose cast lives in `system`, behind an actor with a thread of its own. Throws `error` as
/// `runtime`'s constructor does. The runtime closes when the engine ends: at the latest, end it (`anon_send_exit`, or
/// let the last handle go) before `system` is destroyed, which waits for it.
[[nodiscard]] TROPILLA_API engine_actor spawn_engine(caf::actor_system& system, runtime_config config);

} // namespace tropilla

// Registration. CAF 1.x numbers message types: tropilla takes 100 from this number on, far from where programs begin.
#ifndef TROPILLA_FIRST_TYPE_ID
#define TROPILLA_FIRST_TYPE_ID (caf::first_custom_type_id + 1000)
#endif
#define TROPILLA_ENGINE_MESSAGES(X)                                                                                    \
  X(reply_piece)                                                                                                       \
  X(reply_finished)                                                                                                    \
  X(reply_failed)                                                                                                      \
  X(generate_reply)                                                                                                    \
  X(pieces_read)                                                                                                       \
  X(stop_reply)                                                                                                        \
  X(query_engine)                                                                                                      \
  X(engine_status)
#if CAF_MAJOR_VERSION >= 1
#define TROPILLA_ADD_TYPE_ID(T) CAF_ADD_TYPE_ID(tropilla_engine, (tropilla::T))
CAF_BEGIN_TYPE_ID_BLOCK(tropilla_engine, TROPILLA_FIRST_TYPE_ID)
TROPILLA_ENGINE_MESSAGES(TROPILLA_ADD_TYPE_ID)
CAF_END_TYPE_ID_BLOCK(tropilla_engine)
#undef TROPILLA_ADD_TYPE_ID
#endif
#define TROPILLA_ALLOW(T) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tropilla::T)
TROPILLA_ENGINE_MESSAGES(TROPILLA_ALLOW)
#undef TROPILLA_ALLOW
#undef TROPILLA_ENGINE_MESSAGES
