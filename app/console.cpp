// Chooses the next line: a queued one, an edited one, or one of a pipe.
#include "app/console.hpp"

#include "app/files.hpp"
#include "app/line_watcher.hpp"
#include "app/text.hpp"
#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr std::string_view help =
    R"(/system TEXT   what the assistant is told first; begins a new conversation. Alone: shows it
/clear         begins a new conversation (also /reset)
/retry         answers the last message again, with another seed (also /regen)
/undo          takes the last message and its answer back
/set NAME X    changes an option of the answers: /set temp 0.8, /set top_k 40, /set temp default
/params        these options, with an asterisk at what differs from the default
/model NAME    goes on with another model, a GGUF file or its name. Alone: shows which it is
/stats         what the last answer cost, and how full the context is
/memory        each device's budget, bytes in use, peak, fragmentation and waiters; bytes by purpose
/budget SIZE   gives the device another budget: /budget 500MiB or /budget 80%. Alone: shows it
/save FILE     saves the conversation and its keys and values. FILE.json, FILE.md: its text alone
/load FILE     goes on with a conversation that /save saved, at once
/bye           leaves (also /quit, /exit and Ctrl-D)
//text         the message /text
\ at the end of a line goes on in the next; """ begins and ends a message of several lines, and
pasted lines are one message
While an answer streams, /memory, /budget, /stats and /bye (and Ctrl-D) are obeyed at once; other
lines wait until it ended, and are the next messages and commands
Up and Down go through earlier lines, Ctrl-R searches them, Tab completes commands and options;
Ctrl-C stops an answer)";

/// Thrown when the person left while an answer came.
struct left {};

bool is_terminal() {
  return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
}

std::filesystem::path history_file() {
  const auto state = user_directory("XDG_STATE_HOME", ".local/state");
  return state.empty() ? state : state / "tropilla" / "history";
}

} // namespace

bool console::edits() {
  return is_terminal() && inspect_terminal(STDIN_FILENO).interactive;
}

console::console(const chat_options& options, chat_model& model, terminal_session* terminal, command_context& context)
    : context_(context), quiet_(options.model.quiet), screen_(context.out, is_terminal()), terminal_(terminal),
      dialogue_(options, model, screen_, [this](generation& reply) { return read(reply); }),
      editor_(terminal, history_file(),
              [this](std::string_view before) { return complete_chat_line(before, dialogue_.names_of_settings()); }),
      model_(model) {}

void console::run() {
  greet();
  take_lines();
  if (complained_ && !screen_.person())
    throw already_said{};
}

void console::take_lines() try {
  std::string line;
  for (;;) {
    switch (next_line(line)) {
    case line_end::interrupt:
      interrupt();
      continue;
    case line_end::closed:
      end_input();
      return;
    case line_end::line:
      break;
    }
    editor_.remember(line);
    const bool block = is_pasted(line) || line.starts_with(R"(""")") || joiner_.unfinished();
    const auto message = joiner_.take(line);
    if (message && message->size() > max_message_bytes)
      refuse(error(errc::invalid_argument,
                   fmt::format("a message has at most {}; this one is passed over", format_bytes(max_message_bytes))));
    else if (message && !take(*message, block))
      return;
  }
} catch (const left&) {
}

void console::greet() {
  if (screen_.person() && !quiet_)
    screen_.tell(model_.describe(screen_.facts()) + "\n/help lists the commands.");
}

std::string console::sign() const {
  return joiner_.unfinished() ? "... " : "> ";
}

std::string console::prompt() const {
  return screen_.facts().colour ? fmt::format("\1\x1b[1;32m\1{}\1\x1b[0m\1", sign()) : sign();
}

/// Returns lines that were typed during the last answer, shown as if they were typed now, then new ones.
line_end console::next_line(std::string& line) {
  if (auto waited = ahead_.next()) {
    line = std::move(*waited);
    const terminal_facts& window = screen_.facts();
    const std::string name = name_of_long_paste(line, inspect_terminal(STDOUT_FILENO).width, window_height());
    screen_.write(fmt::format("{}{}\n", window.paint("1;32", sign()), name.empty() ? without_controls(line) : name));
    return line_end::line;
  }
  if (terminal_)
    editor_.push_back(unfinished_.take_keys());
  else if (screen_.person())
    screen_.write(sign());
  return editor_.read(prompt(), line);
}

void console::interrupt() {
  if (!joiner_.unfinished() && !quiet_)
    screen_.tell("(/bye or Ctrl-D leaves)");
  joiner_.clear();
}

/// Ends the input. A message that it cut short is answered all the same.
void console::end_input() {
  if (screen_.person())
    screen_.write("\n");
  else if (joiner_.unfinished())
    static_cast<void>(take(joiner_.rest(), true));
}

void console::refuse(const error& why) {
  screen_.complain(why);
  complained_ = true;
}

/// Obeys or answers a text; false: the person leaves. A mistake in one line ends that line only.
bool console::take(const std::string& text, bool block) {
  try {
    const chat_input input = block ? chat_input{chat_command::message, text} : parse_chat_input(text);
    if (input.command == chat_command::help)
      screen_.tell(help);
    else
      dialogue_.obey(input);
    return input.command != chat_command::quit;
  } catch (const error& e) {
    if (!model_.is_open() || (e.code() == errc::cancelled && !screen_.person()))
      throw;
    refuse(e);
    return true;
  }
}

finished_reply console::read(generation& reply) {
  std::optional<line_watcher> watcher;
  if (terminal_)
    watcher.emplace(STDIN_FILENO, editor_.take_keys(), unfinished_,
                    line_watcher::handlers{.line = [&](const std::string& line) { take_meanwhile(line, reply); },
                                           .closed = [&] { leave_meanwhile(reply); }});
  finished_reply done = read_reply(
      reply, dialogue_.options(), reply_keeps::text, context_, [&](const piece& p) { screen_.show(p.text); },
      unanswered::stays);
  watcher.reset();
  screen_.end_line();
  if (leaving_)
    throw left{};
  return done;
}

/// Takes a line that was typed while `reply` streams, on the watcher's thread: a change of budget that waits for the
/// next step does not stop the reply from being shown meanwhile.
void console::take_meanwhile(const std::string& line, generation& reply) {
  try {
    const auto command = ahead_.take(line);
    if (command && command->command == chat_command::quit)
      leave_meanwhile(reply);
    else if (command)
      screen_.tell(dialogue_.figures(*command));
  } catch (const error& e) {
    try {
      screen_.complain(e);
    } catch (...) { // a screen that takes nothing any more: the thread that reads the reply meets it, too
    }
  } catch (const output_closed&) {
  }
}

void console::leave_meanwhile(generation& reply) {
  leaving_ = true; // read once the watcher is gone
  reply.cancel();
}

} // namespace tropilla::app
