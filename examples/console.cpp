// Holds a conversation at a console, with the model as one actor in the program's own actor system.
//   example_console MODEL.gguf
#include "tropilla/actors.hpp"

#include <iostream>

using namespace tropilla;

namespace {

/// The console's side of a conversation: asks, prints what comes, and reports the end.
std::string ask_and_print(caf::scoped_actor& self, const engine_actor& engine, std::vector<chat_message> messages) {
  // Replies go to an actor; this one prints them and ends, and the console waits for that.
  std::string answer;
  const auto client = self->spawn([&answer](engine_client::pointer me) -> engine_client::behavior_type {
    return {
        [&answer](const reply_piece& m) {
          std::cout << m.next.text << std::flush;
          answer += m.next.text;
        },
        [me](const reply_finished& m) {
          std::cout << "\n[" << m.statistics.generated_tokens << " tokens, " << m.statistics.decode_rate()
                    << " tok/s]\n";
          me->quit();
        },
        [me](const reply_failed& m) {
          std::cout << m.message << "\n";
          me->quit();
        },
    };
  });
  tell_from_outside(engine, generate_reply{client, 1, std::move(messages), {}});
  self->wait_for(client);
  return answer;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: example_console MODEL.gguf\n";
    return 2;
  }
  register_messages();
  caf::actor_system_config config;
  caf::actor_system system(config);
  try {
    const auto engine = spawn_engine(system, {.model = argv[1]});
    caf::scoped_actor self(system);
    std::vector<chat_message> messages;
    for (std::string line; std::cout << "> " << std::flush && std::getline(std::cin, line);) {
      if (line.empty())
        continue;
      messages.push_back({"user", line});
      messages.push_back({"assistant", ask_and_print(self, engine, messages)});
    }
    send_exit(engine);
  } catch (const error& e) {
    std::cerr << e.what() << "\n";
    return 2;
  }
}
