// `tropilla run`: gives one reply to one prompt.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/reply.hpp"
#include "app/text.hpp"
#include "src/sampling/check.hpp"
#include "src/schedule/request_room.hpp"

#include <cstdio>
#include <fmt/ranges.h>
#include <memory>
#include <unistd.h>

namespace tropilla::app {
namespace {

struct run_options {
  model_options model;
  reply_options reply;
  std::string prompt;
  std::string file;
  std::string system;
  std::vector<std::string> words;
  bool prompt_given = false;
  bool raw = false;
  bool special = false;
  bool stats = false;
  bool json = false;

  run_options() { model.parallel_otherwise = "as many as --outputs"; }

  void bind(option_binder& b) {
    b.group("Prompt");
    b.text({"-p,--prompt", "TEXT", "the prompt, in place of words"}, prompt, &prompt_given);
    b.text({"-f,--file", "FILE", "a file that has the prompt"}, file);
    b.text({"--system", "TEXT", "what the assistant is told first", "the template's"}, system);
    b.flag({"--raw", "", "continue the prompt as it is, without a template"}, raw);
    b.flag({"--special", "", "with --raw: special tokens in the prompt count as such"}, special);
    reply.bind(b);
    b.group("Reply");
    b.count({"-N,--outputs", "N", "replies to the same prompt, each with a seed of its own", "",
             "; shown when complete, under a heading"},
            reply.generation.outputs, {.min = 1, .max = max_outputs});
    model.bind(b);
    b.group("Output");
    b.flag({"--stats", "", "more figures at the end"}, stats);
    b.flag({"--json", "", "one object: text, ids, counts, rates, times, bytes", "",
            "; with several outputs a list of them"},
           json);
    b.count({"--logprobs", "N", "with --json: log-probabilities of each token and of the N most probable", "",
             ", at most 20"},
            reply.generation.logprobs, {.max = max_logprobs});
    b.positionals("words", words);
  }
};

/// The prompt from wherever it was given. A line end that an editor or echo left at the end is no part of a question.
std::string read_prompt(const run_options& options, std::size_t max_bytes) {
  const int given = (options.words.empty() ? 0 : 1) + (options.prompt_given ? 1 : 0) + (options.file.empty() ? 0 : 1);
  if (given > 1)
    throw error(errc::invalid_argument, "more than one prompt: give words, -p TEXT or -f FILE");
  std::string text;
  if (!options.words.empty())
    text = fmt::format("{}", fmt::join(options.words, " "));
  else if (options.prompt_given)
    text = options.prompt;
  else if (!options.file.empty())
    text = without_byte_order_mark(read_file(expand_home(options.file), max_bytes));
  else if (::isatty(STDIN_FILENO) == 0)
    text = without_byte_order_mark(read_standard_input(max_bytes));
  else
    throw error(errc::invalid_argument, "no prompt: give words, -p TEXT, -f FILE or standard input, or use "
                                        "tropilla chat");
  if (!options.raw && text.ends_with('\n'))
    text.erase(text.ends_with("\r\n") ? text.size() - 2 : text.size() - 1);
  if (text.empty())
    throw error(errc::invalid_argument, "the prompt is empty");
  require_utf8(text, "the prompt");
  return text;
}

generation start(runtime& rt, const run_options& options, const std::string& prompt) {
  if (options.raw)
    return rt.generate(prompt, options.reply.generation, options.special);
  std::vector<chat_message> messages;
  if (!options.system.empty())
    messages.push_back({"system", options.system});
  messages.push_back({"user", prompt});
  return rt.chat(messages, options.reply.generation);
}

void check(const run_options& options) {
  if (options.special && !options.raw)
    throw error(errc::invalid_argument, "--special needs --raw: in a conversation, only the template makes special "
                                        "tokens");
  if (options.raw && !options.system.empty())
    throw error(errc::invalid_argument, "--raw has no template that --system could go into");
  if (options.reply.generation.logprobs > 0 && !options.json)
    throw error(errc::invalid_argument, "--logprobs needs --json, which has a place for them");
  if (options.model.config.model.empty() && !options.words.empty() && options.words.front().ends_with(".gguf"))
    throw error(errc::invalid_argument, fmt::format("the prompt begins with the name of a file; a model is named with "
                                                    "-m: tropilla run -m {} ...",
                                                    escape(options.words.front())));
  require_utf8(options.system, "the text of --system");
}

/// Shows the outputs of a reply: the one as it comes, several one after another, each when it is complete.
class screen {
public:
  screen(std::size_t outputs, output& to) : out_(to), clean_(inspect_terminal(STDOUT_FILENO).interactive) {
    if (outputs > 1)
      texts_.resize(outputs);
  }

  void show(const piece& p) {
    if (texts_.empty())
      return write(p.text);
    texts_[p.output] += p.text;
    if (!p.finish)
      return;
    show_whole(p.output);
  }
  /// Shows the outputs that are left, also those that were cancelled.
  void end() {
    for (std::size_t i = 0; i < texts_.size(); ++i)
      if (!texts_[i].empty())
        show_whole(i);
    end_line();
  }

private:
  void show_whole(std::size_t output) {
    write(fmt::format("{}[{} of {}]\n", any_ ? "\n" : "", output + 1, texts_.size()));
    write(std::exchange(texts_[output], {}));
    end_line();
  }
  void end_line() {
    if (last_ != '\n')
      write("\n");
  }
  void write(std::string_view text) {
    if (text.empty())
      return;
    any_ = true;
    last_ = text.back();
    out_.write(clean_ ? without_controls(text) : std::string(text));
  }

  output& out_;
  bool clean_;
  bool any_ = false;
  char last_ = '\n';
  std::vector<std::string> texts_; ///< of outputs that are not complete; empty where there is but one
};

void execute(const run_options& options, command_context& env) {
  check(options);
  runtime_config config = options.model.to_config(env, options.reply.generation.outputs);
  const std::size_t context = max_context(config);
  const std::string prompt = read_prompt(options, max_prompt_bytes(context));
  // The memory in which a reply is kept is planned as the rest is: outputs one after another, or one object.
  const std::size_t outputs = options.reply.generation.outputs;
  const auto keeps = options.json ? reply_keeps::all : outputs > 1 ? reply_keeps::text : reply_keeps::nothing;
  if (const std::size_t bytes = kept_bytes(options.reply.generation, keeps, context); bytes > 0)
    config.request_bytes = bytes + request_bytes(context, options.reply.generation, context);
  loaded_runtime model(config, options.model, env);
  runtime& rt = model.get();
  screen shown(outputs, env.out);
  const auto show = [&](const piece& p) {
    model.end_progress();
    if (!options.json)
      shown.show(p);
  };
  finished_reply reply;
  {
    generation stream = start(rt, options, prompt);
    model.check_interrupt();
    reply = read_reply(stream, options.reply, options.json ? reply_keeps::all : reply_keeps::nothing, env, show,
                       unanswered::quits);
  }
  model.end_progress();
  if (options.json) {
    write_json(reply, rt, [&](std::string_view text) { env.out.write(text); });
  } else {
    shown.end();
    const terminal_facts terminal = inspect_terminal(STDERR_FILENO);
    if (options.stats)
      say(terminal.dim(details(reply, rt)));
    if (!options.model.quiet)
      say(terminal.dim("[" + summary_line(reply, rt) + "]"));
  }
  if (reply.statistics.finish == finish_reason::cancelled)
    throw interrupted{};
}

} // namespace

command make_run() {
  auto options = std::make_shared<run_options>();
  return {.name = "run",
          .summary = "answer one prompt",
          .help = {.about =
                       "Answers one prompt, streaming, and ends with what it cost. Without a prompt, it is read from "
                       "standard input. Ctrl-C ends the reply; twice, the program.",
                   .usage = "tropilla run [options] [PROMPT...]",
                   .example = R"(  tropilla run --temp 0.7 --seed 1 "Write a haiku about llamas.")"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
