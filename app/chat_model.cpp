// Opens one model at a time, since a budget has room for one.
#include "app/chat_model.hpp"

#include "app/terminal_session.hpp"
#include "app/text.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace tropilla::app {

chat_model::chat_model(model_options options, command_context& context)
    : options_(std::move(options)), context_(context) {
  open();
}

void chat_model::open() {
  runtime_config config = options_.to_config(context_);
  file_ = config.model;
  const unshown_keys until_it_is_there(STDIN_FILENO);
  open_.emplace(std::move(config), options_, context_);
  open_->wait();
}

std::string chat_model::describe(const terminal_facts& screen) {
  const runtime& rt = get();
  const model_facts& facts = rt.model();
  return fmt::format("{}: {} parameters, {}; {} tokens of context, {} threads",
                     screen.bold(shorten(escape(facts.name), 40)), format_count(facts.parameters), facts.type,
                     rt.plan().context, rt.threads());
}

void chat_model::change(const std::string& name) {
  model_options next = options_;
  next.config.model = name;
  static_cast<void>(runtime::plan(next.to_config(context_)));
  // While it loads, a second Ctrl-C ends the program; the first one alone would end the conversation, too.
  const interrupts::scope patience(context_.signals, [](int press) {
    if (press > 1)
      interrupts::quit();
  });
  const std::vector<memory_report> budgets = get().memory();
  const std::filesystem::path former_file = file_;
  const model_options former = std::exchange(options_, std::move(next));
  open_.reset();
  try {
    open();
  } catch (const interrupted&) {
    open_again(former, budgets);
    throw error(errc::cancelled, fmt::format("stopped; {} is open again", former_file.string()));
  } catch (const error& e) {
    open_again(former, budgets);
    throw error(e.code(), fmt::format("{}; {} is open again", e.what(), former_file.string()));
  }
}

void chat_model::open_again(const model_options& former, const std::vector<memory_report>& budgets) {
  open_.reset();
  options_ = former;
  open();
  for (const memory_report& device : budgets) // as /budget may have changed it
    get().set_budget(device.budget_bytes, device.device);
}

} // namespace tropilla::app
