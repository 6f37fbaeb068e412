// Dispatches: the word after `tropilla` chooses the command; every failure becomes one sentence and a status.
#include "app/command.hpp"

#include "app/foreign_options.hpp"
#include "app/model_files.hpp"
#include "app/text.hpp"
#include "tropilla/version.hpp"

#include <algorithm>
#include <exception>
#include <fmt/format.h>
#include <new>
#include <unistd.h>

namespace tropilla::app {
namespace {

std::string overview() {
  std::string text = "tropilla runs Llama models inside a byte budget.\n\nUsage: tropilla COMMAND [options]\n\n";
  for (const command& c : all_commands())
    text += fmt::format("  {:<12}{}\n", c.name, c.summary);
  text += "\ntropilla COMMAND --help explains one; tropilla --version.\n"
          "Options also come from TROPILLA_* variables (--top-k is TROPILLA_TOP_K) and from a TOML file\n"
          "(--config FILE, or NAME for configs/NAME.toml); the command line wins over variables, these over the file.\n"
          "--log-level info tells what a command does.\n"
          "\nExample:\n  tropilla run -m model.gguf \"Why is the sky blue?\"\n";
  return text;
}

const command& find_command(const std::vector<command>& commands, const std::string& name) {
  const auto found = std::find_if(commands.begin(), commands.end(), [&](const command& c) { return c.name == name; });
  if (found != commands.end())
    return *found;
  std::vector<std::string> names;
  for (const command& c : commands)
    names.emplace_back(c.name);
  if (const foreign_command* foreign = find_foreign_command(name)) {
    if (foreign->here.empty())
      throw error(errc::invalid_argument, fmt::format("{} {}", name, foreign->sentence));
    return find_command(commands, std::string(foreign->here));
  }
  if (name.starts_with('-'))
    throw error(errc::invalid_argument, fmt::format("the command is missing before \"{}\": tropilla run answers one "
                                                    "prompt, tropilla chat talks (tropilla --help lists all)",
                                                    escape(name)));
  const std::string near = closest(name, names);
  throw error(errc::invalid_argument, fmt::format("no command \"{}\"{} (tropilla --help lists them)", escape(name),
                                                  near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}

void dispatch(const std::vector<std::string>& arguments, command_context& env) {
  const std::string first = arguments.empty() ? "--help" : arguments[0];
  if (first == "--version" || first == "version" || first == "-V") {
    env.out.write(
        fmt::format("tropilla {}.{}.{}\n", TROPILLA_VERSION_MAJOR, TROPILLA_VERSION_MINOR, TROPILLA_VERSION_PATCH));
    return;
  }
  const bool help = first == "--help" || first == "-h" || first == "help";
  if (help && arguments.size() < 2) {
    env.out.write(overview());
    return;
  }
  const std::vector<command> commands = all_commands();
  const command& chosen = find_command(commands, help ? arguments[1] : first);
  try {
    if (help)
      throw help_requested{};
    const parsed_options parsed =
        parse_options(chosen.bind, std::span(arguments).subspan(1),
                      {.command = std::string(chosen.name), .known_keys = all_option_names(), .environment = {}});
    env.quiet = parsed.quiet;
    for (const std::string& notice : parsed.notices)
      env.note(notice);
  } catch (const help_requested&) {
    const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
    env.out.write(help_text(chosen, terminal.interactive ? std::clamp<std::size_t>(terminal.width, 80, 100) : 100));
    return;
  }
  chosen.execute(env);
}

/// The option that changes what an error's sentence speaks of in the library's words.
std::string_view option_for(remedy change) noexcept {
  switch (change) {
  case remedy::none:
    break;
  case remedy::context:
    return " (--ctx)";
  case remedy::kv_tokens:
    return " (--kv)";
  case remedy::kv_type:
    return " (--kv-type)";
  case remedy::precise:
    return " (--precise)";
  case remedy::chat_template:
    return " (--template NAME, or tropilla run --raw)";
  }
  return "";
}

int fail(const std::string& sentence) {
  const terminal_facts terminal = inspect_terminal(STDERR_FILENO);
  say(fmt::format("{} {}", terminal.red("tropilla:"), without_controls(sentence)));
  return 2;
}

} // namespace

std::string sentence_of(const error& e) {
  return e.what() + std::string(option_for(e.change()));
}

std::vector<command> all_commands() {
  return {make_run(),   make_chat(), make_batch(), make_tokenize(), make_detokenize(), make_inspect(), make_plan(),
          make_bench(), make_eval(), make_synth(), make_models(),   make_cache(),      make_devices()};
}

std::string help_text(const command& c, std::size_t columns) {
  std::string text =
      fmt::format("{}\n\nUsage: {}\n\n{}", wrap(c.help.about, columns), c.help.usage, option_help(c.bind, columns));
  if (!c.help.notes.empty())
    text += fmt::format("\n{}\n", wrap(c.help.notes, columns));
  return text + fmt::format("\nExample:\n{}\n", c.help.example);
}

void command_context::note(std::string_view sentence) const {
  if (!quiet)
    say(fmt::format("note: {}", without_controls(sentence)));
}

std::filesystem::path command_context::choose_model(const std::string& named) const {
  return app::choose_model(named, [this](std::string_view sentence) { note(sentence); });
}

std::vector<std::string> all_option_names() {
  std::vector<std::string> names;
  for (const command& c : all_commands())
    for (std::string& name : long_options(c.bind))
      names.push_back(std::move(name));
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

int run_program(const std::vector<std::string>& arguments, command_context& env) {
  try {
    dispatch(arguments, env);
    return 0;
  } catch (const interrupted&) {
    return 130;
  } catch (const output_closed&) {
    return 141;
  } catch (const already_said&) {
    return 2;
  } catch (const partial_failure& e) {
    (void)fail(e.sentence);
    return 3;
  } catch (const error& e) {
    return e.code() == errc::cancelled ? 130 : fail(sentence_of(e));
  } catch (const std::bad_alloc&) {
    return fail("the machine has not enough memory for this");
  } catch (const std::exception& e) {
    return fail(fmt::format("unexpected: {}", e.what()));
  }
}

loaded_runtime::loaded_runtime(runtime_config config, const model_options& options, command_context& env)
    : progress_(std::make_shared<progress>("loading " + escape(config.model.filename().string()), progress::unit::bytes,
                                           options.quiet, env.status)),
      hold_(std::in_place, env.signals,
            [pressed = pressed_](int press) {
              if (press > 1)
                interrupts::quit();
              *pressed = true;
            }),
      runtime_([&] {
        config.log = options.log.open(env.status);
        if (!options.quiet && !options.log.shows_warnings()) // notices are warnings of the log, too
          config.on_notice = [status = env.status](std::string_view sentence) {
            status->say(fmt::format("note: {}", without_controls(sentence)));
          };
        config.on_progress = [p = progress_](const load_progress& now) { p->update(now.bytes_done, now.bytes_total); };
        return runtime(std::move(config));
      }()) {
  check_interrupt();
}

void loaded_runtime::check_interrupt() const {
  if (*pressed_)
    throw interrupted{};
}

void loaded_runtime::wait() {
  check_interrupt();
  hold_.reset();
  runtime_.wait_until_loaded();
  end_progress();
}

std::size_t peak_bytes(const runtime& rt) {
  std::size_t bytes = 0;
  for (const memory_report& device : rt.memory())
    bytes += device.peak_bytes;
  return bytes;
}

} // namespace tropilla::app
