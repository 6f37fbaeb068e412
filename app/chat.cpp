// `tropilla chat`: declares its options and runs a console with them.
#include "app/console.hpp"

#include "app/text.hpp"

#include <fmt/format.h>
#include <memory>
#include <optional>
#include <unistd.h>

namespace tropilla::app {
namespace {

void execute(const chat_options& options, command_context& env) {
  require_utf8(options.system, "the text of --system");
  if (options.reply.seed_drawn)
    env.note(fmt::format("seed {}", options.reply.generation.sampling.seed));
  std::optional<terminal_session> terminal;
  if (console::edits())
    terminal.emplace(STDIN_FILENO);
  chat_model model(options.model, env);
  // Outside of an answer, Ctrl-C is a key of the editor; one that comes as a signal must not end the conversation.
  const bool person = inspect_terminal(STDIN_FILENO).interactive;
  std::optional<interrupts::scope> keep;
  if (person)
    keep.emplace(env.signals, [](int) {});
  console(options, model, terminal ? &*terminal : nullptr, env).run();
}

} // namespace

chat_options::chat_options() {
  // Greedy answers run in circles; these are what Llama 3 comes with (its generation_config.json).
  reply.generation.sampling.temperature = 0.6;
  reply.generation.sampling.top_p = 0.9;
  reply.generation.max_tokens = 1024;
  reply.generation.context_shift = true;
}

void chat_options::bind(option_binder& b) {
  b.group("Conversation");
  b.text({"--system", "TEXT", "what the assistant is told first", "the template's"}, system);
  bind_settings(b);
  model.bind(b);
}

void chat_options::bind_settings(option_binder& b) {
  reply.bind(b);
  b.group("Output");
  b.flag({"--stats", "", "figures after each answer"}, stats);
}

command make_chat() {
  auto options = std::make_shared<chat_options>();
  return {.name = "chat",
          .summary = "talk with a model",
          .help = {.about = "Talks with a model. Lines from a pipe are messages, too; answers go to standard output.",
                   .usage = "tropilla chat [options]",
                   .notes = "Inside, /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.",
                   .example = R"(  tropilla chat --temp 0 --system "You are brief.")"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
