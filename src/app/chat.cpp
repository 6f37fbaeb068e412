// `tropilla chat`: a conversation at the terminal, or line by line from a pipe.
#include "src/app/command.hpp"

#include "memory/arbiter.hpp"
#include "src/app/chat_input.hpp"
#include "src/app/conversation.hpp"
#include "src/app/files.hpp"
#include "src/app/line_editor.hpp"
#include "src/app/line_watcher.hpp"
#include "src/app/memory_table.hpp"
#include "src/app/reply.hpp"
#include "src/app/text.hpp"

#include <fmt/format.h>
#include <functional>
#include <memory>
#include <mutex>
#include <unistd.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr std::string_view inner_help =
    R"(/system TEXT   what the assistant is told first; begins a new conversation. Alone: shows it
/reset         begins a new conversation
/stats         what the last answer cost, and how full the context is
/memory        each device's budget, bytes in use, peak, fragmentation and waiters; bytes by purpose
/budget SIZE   gives the device another budget: /budget 500MiB. Alone: shows it
/save FILE     saves the conversation and its keys and values. FILE.json, FILE.md: its text alone
/load FILE     goes on with a conversation that /save saved, at once
/quit          leaves (so does Ctrl-D)
//text         the message /text
\ at the end of a line goes on in the next; """ begins and ends a message of several lines
While an answer streams, /memory, /budget, /stats and /quit (and Ctrl-D) are obeyed at once; other
lines wait until it ended, and are the next messages and commands
Up and Down go through earlier lines, Ctrl-R searches them, Tab completes a command;
Ctrl-C stops an answer)";

struct chat_options {
  model_options model;
  reply_options reply;
  std::string system;
  bool stats = false;

  chat_options() {
    // Greedy answers run in circles; these are what Llama 3 comes with (its generation_config.json).
    reply.generation.sampling.temperature = 0.6;
    reply.generation.sampling.top_p = 0.9;
    reply.generation.max_tokens = 1024;
  }
  void bind(option_binder& b) {
    b.group("Conversation");
    b.text({"--system", "TEXT", "what the assistant is told first", "the template's"}, system);
    reply.bind(b);
    model.bind(b);
    b.group("Output");
    b.flag({"--stats", "", "figures after each answer"}, stats);
  }
};

/// A conversation and the screen that it is on.
class console {
public:
  console(const chat_options& options, loaded_runtime& model, surroundings& around)
      : options_(options), model_(model.get()), around_(around), screen_(inspect_terminal(STDOUT_FILENO)),
        talks_to_person_(screen_.interactive && inspect_terminal(STDIN_FILENO).interactive), editor_(history_file()),
        system_(options.system) {
    reset();
  }

  void run() {
    greet();
    std::string line;
    for (;;) {
      switch (next_line(line)) {
      case line_end::interrupt:
        interrupt();
        continue;
      case line_end::closed:
        leave();
        return;
      case line_end::line:
        break;
      }
      editor_.remember(line);
      const bool begins_block = line.starts_with(R"(""")") || joiner_.unfinished();
      const auto message = joiner_.take(line);
      if (message && !take(*message, begins_block))
        return;
    }
  }

private:
  static std::filesystem::path history_file() {
    const auto state = user_directory("XDG_STATE_HOME", ".local/state");
    return state.empty() ? state : state / "tropilla" / "history";
  }

  void greet() {
    if (!talks_to_person_ || options_.model.quiet)
      return;
    const model_facts& facts = model_.model();
    tell(fmt::format("{}: {} parameters, {}; {} tokens of context, {}. /help lists the commands.",
                     screen_.bold(shorten(escape(facts.name), 40)), format_count(facts.parameters), facts.type,
                     model_.plan().context, fmt::format("{} threads", model_.threads())));
  }

  std::string sign() const { return joiner_.unfinished() ? "... " : "> "; }

  /// libedit counts what is between \1 and \1 as no columns.
  std::string prompt() const { return screen_.colour ? fmt::format("\1\x1b[1;32m\1{}\1\x1b[0m\1", sign()) : sign(); }

  /// What was typed during the last answer, shown as if it were typed now, then what is typed.
  line_end next_line(std::string& line) {
    if (auto waited = ahead_.next()) {
      line = without_controls(*waited);
      around_.out.write(fmt::format("{}{}\n", screen_.paint("1;32", sign()), line));
      return line_end::line;
    }
    editor_.push_back(std::exchange(begun_, {}));
    return editor_.read(prompt(), line);
  }

  void interrupt() {
    if (!joiner_.unfinished() && !options_.model.quiet)
      tell("(/quit or Ctrl-D leaves)");
    joiner_.clear();
  }

  /// A message that the end of the input cut short is answered all the same.
  void leave() {
    if (talks_to_person_)
      around_.out.write("\n");
    else if (joiner_.unfinished())
      static_cast<void>(take(joiner_.rest(), true));
  }

  /// False: leave. A mistake of one line ends the line; from a script, the program.
  bool take(const std::string& text, bool block) {
    try {
      const chat_input input = block ? chat_input{chat_command::message, text} : parse_chat_input(text);
      return obey(input);
    } catch (const error& e) {
      if (!talks_to_person_)
        throw;
      complain(e);
      return !leaving_;
    }
  }

  void complain(const error& e) const {
    say(fmt::format("{} {}", screen_.red("tropilla:"), without_controls(sentence_of(e))));
  }

  bool obey(const chat_input& input) {
    switch (input.command) {
    case chat_command::message:
      if (input.text.find_first_not_of(" \t\n") != std::string::npos)
        answer(input.text);
      return !leaving_;
    case chat_command::help:
      tell(inner_help);
      return true;
    case chat_command::system:
      set_system(input.text);
      return true;
    case chat_command::reset:
      reset();
      tell("(a new conversation)");
      return true;
    case chat_command::stats:
    case chat_command::memory:
    case chat_command::budget:
      tell(figures(input));
      return true;
    case chat_command::save:
      save(input.text);
      return true;
    case chat_command::load:
      load(input.text);
      return true;
    case chat_command::quit:
      return false;
    }
    return true;
  }

  void reset() {
    messages_.clear();
    used_ = 0;
    if (!system_.empty())
      messages_.push_back({"system", system_});
  }

  void set_system(const std::string& text) {
    if (text.empty()) {
      tell(system_.empty() ? "(no system message; /system TEXT sets one)" : without_controls(system_));
      return;
    }
    require_utf8(text, "the system message");
    system_ = text;
    reset();
    tell("(a new conversation with this system message)");
  }

  void save(const std::string& name) {
    if (name.empty())
      throw error(errc::invalid_argument,
                  "/save needs the name of a file: /save talk, /save talk.md or /save talk.json");
    if (name.ends_with(".json") || name.ends_with(".md")) {
      write_file(expand_home(name), name.ends_with(".json") ? as_json(messages_) : as_markdown(messages_));
      tell(fmt::format("({} messages written to {})", messages_.size(), escape(name)));
      return;
    }
    // As the next message's prompt begins: what of it is in memory is what can be reused.
    const auto ids = messages_.empty() ? std::vector<token_id>{} : model_.encode(messages_);
    const std::size_t tokens = model_.save_session(expand_home(name), ids, as_json(messages_));
    tell(fmt::format("({} messages and {} tokens of context written to {})", messages_.size(), tokens, escape(name)));
  }

  void load(const std::string& name) {
    if (name.empty())
      throw error(errc::invalid_argument, "/load needs the name of a file that /save wrote: /load talk");
    std::string note;
    const auto ids = model_.load_session(expand_home(name), &note);
    messages_ = messages_from_json(note, name);
    system_ = !messages_.empty() && messages_.front().role == "system" ? messages_.front().content : "";
    used_ = ids.size();
    tell(fmt::format("({} messages and {} tokens of context are back)", messages_.size(), used_));
  }

  /// What /stats, /memory and /budget say. On the watcher's thread while an answer streams: `last_` and `used_` change
  /// only after it.
  std::string figures(const chat_input& input) {
    if (input.command == chat_command::stats)
      return last_ ? fmt::format("{}\n{}\ncontext  {} of {} tokens", summary_line(*last_, model_),
                                 details(*last_, model_), used_, model_.plan().context)
                   : "(no answer has ended yet)";
    if (input.command == chat_command::budget) {
      if (!input.text.empty())
        model_.set_budget(parse_bytes(input.text));
      return budget_lines(model_.memory());
    }
    std::string text = memory_table(model_.memory()).aligned();
    text.pop_back(); // `tell` ends the line
    return text;
  }

  void answer(const std::string& text) {
    require_utf8(text, "the message");
    messages_.push_back({"user", text});
    try {
      finished_reply reply = stream();
      messages_.push_back({"assistant", reply.outputs.front().text});
      last_ = std::move(reply);
    } catch (const error& e) {
      messages_.pop_back(); // the next message must not follow one without an answer
      if (e.code() == errc::context_full)
        throw error(errc::context_full, fmt::format("{} (/reset begins a new conversation)", sentence_of(e)));
      throw;
    }
    if (leaving_)
      return;
    const generation_statistics& s = last_->statistics;
    used_ = s.prompt_tokens + s.generated_tokens;
    if (s.finish == finish_reason::context)
      tell(fmt::format("(the context of {} tokens is full; /reset begins a new conversation)", model_.plan().context));
    else if (s.finish == finish_reason::length)
      tell(fmt::format("(stopped after {} tokens; -n allows more)", s.generated_tokens));
    else if (s.finish == finish_reason::cancelled)
      tell("(stopped)");
    if (options_.stats)
      tell("[" + summary_line(*last_, model_) + "]");
  }

  finished_reply stream() {
    generation reply = model_.chat(messages_, options_.reply.generation);
    at_line_start_ = true;
    const auto show = [&](const piece& p) {
      if (p.text.empty())
        return;
      const std::lock_guard lock(screen_mutex_);
      at_line_start_ = p.text.back() == '\n';
      around_.out.write(screen_.interactive ? without_controls(p.text) : p.text);
    };
    std::optional<line_watcher> watcher;
    if (talks_to_person_)
      watcher.emplace(STDIN_FILENO, begun_,
                      line_watcher::handlers{.line = [&](const std::string& line) { take_meanwhile(line, reply); },
                                             .closed = [&] { leave_meanwhile(reply); }});
    finished_reply done = read_reply(reply, options_.reply, around_, show, [] {});
    watcher.reset();
    done.first_token_seconds = done.statistics.first_token_seconds; // of this answer, not since the program began
    if (!at_line_start_)
      around_.out.write("\n");
    else if (talks_to_person_)
      around_.out.write(fresh_line(inspect_terminal(STDOUT_FILENO).width)); // half a line may have been typed
    return done;
  }

  /// A line that was typed while `reply` streams, on the watcher's thread: a budget that takes effect with the next
  /// step keeps nobody from reading what comes until then.
  void take_meanwhile(const std::string& line, generation& reply) {
    try {
      const auto command = ahead_.take(line);
      if (command && command->command == chat_command::quit)
        leave_meanwhile(reply);
      else if (command)
        interject([&, text = figures(*command)] { tell(text); });
      else
        note_line_end();
    } catch (const error& e) {
      interject([&] { complain(e); });
    }
  }

  void leave_meanwhile(generation& reply) {
    leaving_ = true; // read once the watcher is gone
    reply.cancel();
  }

  /// Shows something on lines of its own between the pieces of a reply.
  void interject(const std::function<void()>& show) noexcept {
    const std::lock_guard lock(screen_mutex_);
    at_line_start_ = true;
    try {
      around_.out.write(fresh_line(inspect_terminal(STDOUT_FILENO).width));
      show();
    } catch (...) { // a screen that takes nothing any more: the reply's thread meets it, too
    }
  }

  /// Enter, echoed by the terminal, began a line.
  void note_line_end() {
    const std::lock_guard lock(screen_mutex_);
    at_line_start_ = true;
  }

  /// What is not the model's words: beside them on a terminal, and out of them in a pipe.
  void tell(std::string_view text) {
    if (talks_to_person_)
      around_.out.write(screen_.dim(text) + "\n");
    else
      say(text);
  }

  const chat_options& options_;
  runtime& model_;
  surroundings& around_;
  terminal_facts screen_;
  bool talks_to_person_;
  line_editor editor_;
  line_joiner joiner_;
  typeahead ahead_;
  std::string begun_; ///< of a line that was typed during the last answer
  bool leaving_ = false;
  std::mutex screen_mutex_;   ///< while an answer streams: its pieces and what is said between them
  bool at_line_start_ = true; ///< the cursor, as far as the answer is concerned
  std::string system_;
  std::vector<chat_message> messages_;
  std::optional<finished_reply> last_;
  std::size_t used_ = 0; ///< tokens of the context, after the last answer
};

void execute(const chat_options& options, surroundings& around) {
  require_utf8(options.system, "the text of --system");
  if (options.reply.seed_drawn)
    around.note(fmt::format("seed {}", options.reply.generation.sampling.seed));
  loaded_runtime model(options.model.to_config(around), options.model, around);
  model.wait();
  // Outside of an answer, Ctrl-C is a key of the editor; one that comes as a signal must not end the conversation.
  const bool person = inspect_terminal(STDIN_FILENO).interactive;
  std::optional<interrupts::scope> keep;
  if (person)
    keep.emplace(around.signals, [](int) {});
  console(options, model, around).run();
}

} // namespace

command make_chat() {
  auto options = std::make_shared<chat_options>();
  return {.name = "chat",
          .summary = "talk with a model",
          .help = {.about = "Talks with a model. Lines from a pipe are messages, too; answers go to standard output.",
                   .usage = "tropilla chat [options]",
                   .notes = "Inside, /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.",
                   .example = R"(  tropilla chat --temp 0 --system "You are brief.")"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](surroundings& around) { execute(*options, around); }};
}

} // namespace tropilla::app
