// `tropilla batch`: reads a file of requests and writes a file of results.
#include "app/batch_loop.hpp"
#include "app/command.hpp"
#include "app/files.hpp"
#include "app/text.hpp"
#include "src/batch/journal.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace tropilla::app {
namespace {

struct batch_options {
  model_options model;
  reply_options reply;
  std::vector<std::string> inputs;
  std::string output = "-";
  bool ordered = false;
  bool restart = false;
  bool special = false;

  batch_options() { model.parallel_otherwise = "16"; }

  void bind(option_binder& b) {
    b.group("Results");
    b.text({"-o,--output", "FILE", "where results go; what is there already is not done again. -: standard output"},
           output);
    b.flag({"--ordered", "", "results in the order of the lines, not as replies end"}, ordered);
    b.flag({"--restart", "", "forget the results that are there", "", ": empties the output first"}, restart);
    reply.bind(b);
    b.group("Prompts");
    b.flag({"--special", "", "special tokens in raw prompts count as such", "",
            ", as in those that a client rendered ([when else](batch.md#a-line))"},
           special);
    model.bind(b);
    b.positionals("input", inputs);
  }
};

constexpr std::size_t read_ahead_bytes = std::size_t{1} << 20;

/// The longest line in bytes: 128 prompts of a text that fills the context, or one with every character escaped.
std::size_t max_line_of_batch(std::size_t context) {
  constexpr std::size_t of_token = 512, least = std::size_t{1} << 20;
  return std::clamp(context * of_token, least, longest_batch_line);
}

/// JSON values of a line: prompts that are ids, and what else there may be.
std::size_t max_values_of_line(std::size_t context) {
  constexpr std::size_t prompts = 8, others = std::size_t{1} << 17;
  return context * prompts + others;
}

/// The input's descriptor, and what can be done with it.
struct input_file {
  std::string name = "standard input";
  int descriptor = STDIN_FILENO;
  bool regular = false; ///< it can be read twice
  std::uint64_t bytes = 0;

  explicit input_file(const std::string& path) {
    if (path != "-") {
      name = expand_home(path);
      descriptor = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
      if (descriptor < 0)
        throw_system_error("read", name, errno);
    }
    struct stat facts {};
    if (::fstat(descriptor, &facts) != 0)
      throw_system_error("read", name, errno);
    // A redirected standard input is somewhere in its file, maybe not at the start: it counts as a pipe.
    regular = path != "-" && S_ISREG(facts.st_mode);
    bytes = S_ISREG(facts.st_mode) ? static_cast<std::uint64_t>(facts.st_size) : 0;
  }
  ~input_file() {
    if (descriptor != STDIN_FILENO)
      ::close(descriptor);
  }
  input_file(const input_file&) = delete;
  input_file& operator=(const input_file&) = delete;
};

void require_different(const input_file& input, const std::string& output) {
  struct stat from {
  }, to{};
  if (::fstat(input.descriptor, &from) == 0 && ::stat(output.c_str(), &to) == 0 && S_ISREG(to.st_mode) &&
      from.st_dev == to.st_dev && from.st_ino == to.st_ino)
    throw error(errc::invalid_argument, fmt::format("{} is the input; name another output", output));
}

/// The destination of results.
struct batch_destination {
  std::unique_ptr<batch_journal> journal; ///< ready to go on where it stopped; null: standard output
  bool lines_left = true;                 ///< of the input, without a record
};

batch_destination open_output(const batch_options& options, const input_file& input) {
  if (options.output == "-")
    return {};
  const std::string path = expand_home(options.output);
  require_different(input, path);
  auto journal = std::make_unique<batch_journal>(path, options.restart);
  const finished_lines& done = journal->finished();
  if (done.records == 0)
    return {std::move(journal)};
  if (!input.regular)
    throw error(errc::invalid_argument,
                fmt::format("{} has {} records already, and {} can't be gone through again; name another output, or "
                            "begin anew with --restart",
                            path, done.records, input.name));
  const bool left = require_same_input(input.descriptor, input.name, done, path);
  if (::lseek(input.descriptor, 0, SEEK_SET) != 0)
    throw_system_error("read", input.name, errno);
  return {std::move(journal), left};
}

std::string duration(double seconds) {
  const auto whole = static_cast<std::uint64_t>(seconds + 0.5);
  if (whole < 60)
    return fmt::format("{} s", whole);
  if (whole < 3600)
    return fmt::format("{}:{:02} min", whole / 60, whole % 60);
  return fmt::format("{}:{:02} h", whole / 3600, whole / 60 % 60);
}

/// Shows progress. The bar counts bytes of the input, because the number of its lines is unknown; the words behind it
/// say the rest.
class batch_display {
public:
  batch_display(std::uint64_t input_bytes, bool quiet, const std::shared_ptr<status_line>& place)
      : bytes_(input_bytes), bar_("batch", progress::unit::bytes, quiet || !place->terminal().interactive, place) {}

  void show(const batch_totals& t) {
    const double elapsed = seconds();
    const std::uint64_t done = t.passed_bytes + t.done_bytes;
    std::string words = fmt::format("{} done{}", t.requests, rate(t, ", {:.0f} tok/s"));
    if (t.done_bytes > 0 && bytes_ > done)
      words += fmt::format(", {} left",
                           duration(elapsed * static_cast<double>(bytes_ - done) / static_cast<double>(t.done_bytes)));
    bar_.update(done, bytes_, words);
  }
  [[nodiscard]] std::string summary(const batch_totals& t) {
    bar_.finish();
    return fmt::format("[{}, {} failed, {} prompt tokens, {} output tokens{}, {:.2f} s]",
                       count_of(t.requests, "request"), t.failed, t.prompt_tokens, t.output_tokens,
                       rate(t, ", {:.1f} tok/s"), seconds());
  }

private:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  /// The rate as text; empty where there is none.
  [[nodiscard]] std::string rate(const batch_totals& t, fmt::format_string<double> as) const {
    return t.output_tokens > 0 ? fmt::format(as, static_cast<double>(t.output_tokens) / std::max(seconds(), 1e-3)) : "";
  }

  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::uint64_t bytes_;
  progress bar_;
};

/// Whether a raw text begins with a special token: it has gone through a chat template then, since users don't type
/// one.
bool begins_with_special(const runtime& rt, const std::string& text) {
  constexpr std::size_t longest_special = 256; // bytes
  const auto ids = rt.tokenize(std::string_view{text}.substr(0, longest_special), false, true);
  return !ids.empty() && rt.detokenize(std::span(ids).first(1)).empty();
}

prompt_encoder encoder_of(const runtime& rt, bool special) {
  return [&rt, special](const batch_prompt& prompt, std::optional<bool> said) {
    if (const auto* text = std::get_if<std::string>(&prompt))
      return rt.encode(*text, said.value_or(special || begins_with_special(rt, *text)));
    if (const auto* messages = std::get_if<std::vector<chat_message>>(&prompt))
      return rt.encode(*messages);
    return std::get<std::vector<token_id>>(prompt);
  };
}

/// Tells a user who starts the batch again how far it is.
void tell_of_earlier(const finished_lines& done, const std::string& output, bool left) {
  say(fmt::format("{} has {} already{}; {}", output, count_of(done.records, "result"),
                  done.failed > 0 ? fmt::format(", {} of them failed", done.failed) : "",
                  left ? "going on with the others" : "nothing is left to do"));
}

/// Throws `partial_failure` where a record of the output has an error.
void require_no_failure(const batch_totals& now, const finished_lines& earlier, const std::string& output) {
  if (now.failed > 0)
    throw partial_failure{
        fmt::format("{} of {} failed; the first: {}", now.failed, count_of(now.requests, "request"), now.failure)};
  if (earlier.failed > 0)
    throw partial_failure{
        fmt::format("{} of the {} in {} failed in an earlier run; remove their lines to have them done again",
                    earlier.failed, count_of(earlier.records, "result"), output)};
}

void execute(const batch_options& options, command_context& env) {
  if (options.inputs.size() != 1)
    throw error(errc::invalid_argument, options.inputs.empty() ? "no input: name a file of requests, or - for standard "
                                                                 "input"
                                                               : "more than one input: name one file of requests");
  if (options.reply.seed_drawn)
    env.note(fmt::format("seed {}", options.reply.generation.sampling.seed));
  runtime_config config = options.model.to_config(env, 16);
  // Waiting ones are what joins when a reply ends; they cost a prompt's ids each.
  const std::size_t in_flight = 2 * config.sequences;
  config.queue_length = std::numeric_limits<std::size_t>::max(); // of the runtime: the feeder is what waits
  const input_file input(options.inputs.front());
  const batch_destination destination = open_output(options, input);
  const auto& journal = destination.journal;
  const finished_lines earlier = journal ? journal->finished() : finished_lines{};
  if (earlier.records > 0) {
    if (!options.model.quiet)
      tell_of_earlier(earlier, options.output, destination.lines_left);
    if (!destination.lines_left)
      return require_no_failure({}, earlier, options.output);
  }
  loaded_runtime model(std::move(config), options.model, env);
  model.wait();

  batch_display display(input.bytes, options.model.quiet, env.status);
  batch_work work;
  const std::size_t context = model.get().plan().context;
  work.queue = std::make_shared<request_queue>(request_queue_setup{.input = input.descriptor,
                                                                   .name = input.name,
                                                                   .done = earlier.lines,
                                                                   .defaults = options.reply.generation,
                                                                   .encode = encoder_of(model.get(), options.special),
                                                                   .max_bytes = read_ahead_bytes,
                                                                   .longest_line = max_line_of_batch(context),
                                                                   .max_values = max_values_of_line(context)});
  work.in_flight = in_flight;
  work.context = context;
  work.max_bytes = model.get().plan().request_bytes;
  work.ordered = options.ordered;
  work.write = [&](std::string_view record) {
    if (journal)
      journal->append(record);
    else
      env.out.write(record);
  };
  work.on_progress = [&](const batch_totals& t) { display.show(t); };
  batch_loop loop(model.get(), std::move(work));
  bool complete = false;
  model.check_interrupt();
  {
    const interrupts::scope on_interrupt(
        env.signals, [&](int) { loop.stop(); }, interrupts::patience);
    complete = loop.run();
  }
  if (journal)
    journal->sync();
  const std::string summary = display.summary(loop.totals());
  if (!options.model.quiet)
    say(inspect_terminal(STDERR_FILENO).dim(summary));
  if (!complete)
    throw interrupted{};
  require_no_failure(loop.totals(), earlier, options.output);
}

} // namespace

command make_batch() {
  auto options = std::make_shared<batch_options>();
  return {.name = "batch",
          .summary = "answer every line of a file",
          .help = {.about = "Answers every line of a file, many at once; started again, it goes on where it stopped. "
                            "As a file, - is standard input or output.",
                   .usage = "tropilla batch [options] IN.jsonl -o OUT.jsonl",
                   .notes =
                       "Options of replies and of sampling are for what a line leaves out.\n\n"
                       "A line has \"prompt\" (taken raw) or \"messages\", and \"id\", \"max_tokens\", "
                       "\"temperature\", \"seed\" and more (docs/batch.md), or is one of OpenAI's batch format. A bad "
                       "line gives a record with \"error\", and the status 3 at the end. After Ctrl-C or a crash, the "
                       "same command does what is missing, and nothing twice.",
                   .example = "  tropilla batch questions.jsonl -o answers.jsonl"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
