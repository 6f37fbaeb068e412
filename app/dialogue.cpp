// Implements the commands of the console, one function each.
#include "app/dialogue.hpp"

#include "app/files.hpp"
#include "app/memory_table.hpp"
#include "app/settings.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <utility>

namespace tropilla::app {
namespace {

constexpr std::size_t until_full = std::numeric_limits<std::size_t>::max(); // -n -1

/// Changes the budget. `text`: bytes, or a share of what the device could use when the model was opened.
void change_budget(runtime& rt, const std::string& text) {
  const auto percent = parse_percent(text);
  if (!percent)
    return rt.set_budget(parse_bytes(text));
  const device_plan& device = rt.plan().devices.front();
  if (device.limit_set_by.empty())
    throw error(errc::invalid_argument, "the system does not say what may be used: give the budget in bytes");
  rt.set_budget(share_of(device.limit_bytes, *percent));
}

} // namespace

dialogue::dialogue(chat_options options, chat_model& model, chat_screen& screen, reader read)
    : options_(std::move(options)), model_(model), screen_(screen), read_(std::move(read)),
      talk_(conversation::with_system(options_.system)) {}

void dialogue::obey(const chat_input& input) {
  switch (input.command) {
  case chat_command::message:
    if (input.text.find_first_not_of(" \t\n") != std::string::npos)
      say(input.text);
    break;
  case chat_command::system:
    set_system(input.text);
    break;
  case chat_command::clear:
    begin(talk_.system());
    screen_.tell("(a new conversation)");
    break;
  case chat_command::retry:
    retry();
    break;
  case chat_command::undo:
    undo();
    break;
  case chat_command::set:
    set(input.text);
    break;
  case chat_command::params:
    set("");
    break;
  case chat_command::model:
    change_model(input.text);
    break;
  case chat_command::stats:
  case chat_command::memory:
  case chat_command::budget:
    screen_.tell(figures(input));
    break;
  case chat_command::save:
    save(input.text);
    break;
  case chat_command::load:
    load(input.text);
    break;
  case chat_command::help:
  case chat_command::quit:
    break;
  }
}

void dialogue::begin(const std::string& system) {
  talk_ = conversation::with_system(system);
  used_ = 0;
}

void dialogue::say(const std::string& text) {
  require_utf8(text, "the message");
  const conversation before = talk_;
  talk_.ask(text);
  retries_ = 0;
  try {
    answer();
  } catch (...) { // the next message must not follow one without an answer
    talk_ = before;
    throw;
  }
}

void dialogue::retry() {
  if (talk_.empty())
    throw error(errc::invalid_argument, "there is no message yet that could be answered again");
  const conversation before = talk_;
  talk_.reopen();
  ++retries_;
  if (options_.reply.generation.sampling.temperature > 0)
    screen_.tell(fmt::format("(again, with seed {})", answer_options().sampling.seed));
  else
    screen_.tell("(again; at temperature 0 the answer is the same unless something else changed: /set temp 0.8)");
  try {
    answer();
  } catch (...) {
    talk_ = before;
    throw;
  }
}

void dialogue::undo() {
  if (talk_.empty())
    throw error(errc::invalid_argument, "there is no message yet that could be taken back");
  const std::string said = talk_.undo();
  used_ = talk_.empty() ? 0 : model_.get().encode(talk_.told()).size();
  screen_.tell(
      fmt::format("(taken back: \"{}\"; {} messages are left)", shorten(escape(said), 40), talk_.all().size()));
}

void dialogue::set_system(const std::string& text) {
  if (text.empty()) {
    const std::string system = talk_.system();
    screen_.tell(system.empty() ? "(no system message; /system TEXT sets one)" : without_controls(system));
    return;
  }
  require_utf8(text, "the system message");
  begin(text);
  screen_.tell("(a new conversation with this system message)");
}

void dialogue::set(const std::string& text) {
  const setting_words words = split_setting(text);
  if (words.name == "system")
    return set_system(words.value);
  chat_options fresh;
  const changeable_options changeable{.now = [this](option_binder& b) { options_.bind_settings(b); },
                                      .by_default = [&](option_binder& b) { fresh.bind_settings(b); },
                                      .fixed = [&](option_binder& b) { fresh.model.bind(b); }};
  screen_.tell(words.name.empty() ? settings_table(changeable) : change_setting(changeable, words));
  retries_ = 0;
}

std::vector<std::string> dialogue::names_of_settings() {
  return setting_names([this](option_binder& b) { options_.bind_settings(b); });
}

void dialogue::change_model(const std::string& name) {
  if (name.empty()) {
    screen_.tell(fmt::format("{}\n{}", model_.describe(screen_.facts()), escape(model_.file().string())));
    return;
  }
  screen_.end_line();
  model_.change(name);
  used_ = 0;
  retries_ = 0;
  last_.reset();
  screen_.tell(fmt::format("{}\n{}", model_.describe(screen_.facts()),
                           talk_.empty() ? "(the conversation is empty)" : "(the conversation goes on)"));
}

void dialogue::save(const std::string& name) {
  if (name.empty())
    throw error(errc::invalid_argument, "/save needs the name of a file: /save talk, /save talk.md or /save talk.json");
  if (name.ends_with(".json") || name.ends_with(".md")) {
    write_file(expand_home(name), name.ends_with(".json") ? as_json(talk_.all()) : as_markdown(talk_.all()));
    screen_.tell(fmt::format("({} messages written to {})", talk_.all().size(), escape(name)));
    return;
  }
  // As the next message's prompt begins: what of it is in memory is what can be reused.
  const auto messages = talk_.told();
  const auto ids = messages.empty() ? std::vector<token_id>{} : model_.get().encode(messages);
  const std::size_t tokens = model_.get().save_session(expand_home(name), ids, as_json(messages));
  screen_.tell(
      fmt::format("({} messages and {} tokens of context written to {})", messages.size(), tokens, escape(name)));
}

void dialogue::load(const std::string& name) {
  if (name.empty())
    throw error(errc::invalid_argument, "/load needs the name of a file that /save wrote: /load talk");
  std::string note;
  const auto ids = model_.get().load_session(expand_home(name), &note);
  talk_ = conversation(messages_from_json(note, name));
  used_ = ids.size();
  retries_ = 0;
  screen_.tell(fmt::format("({} messages and {} tokens of context are back)", talk_.all().size(), used_));
}

std::string dialogue::figures(const chat_input& input) {
  runtime& rt = model_.get();
  if (input.command == chat_command::stats)
    return last_ ? fmt::format("{}\n{}\ncontext  {} of {} tokens", summary_line(*last_, rt), details(*last_, rt), used_,
                               rt.plan().context)
                 : "(no answer has ended yet)";
  if (input.command == chat_command::budget) {
    if (!input.text.empty())
      change_budget(rt, input.text);
    return budget_lines(rt.memory());
  }
  return memory_table(rt.memory()).aligned() + flow_lines(rt.load()); // `tell` ends the line
}

void dialogue::answer() {
  generation reply = begin_reply();
  finished_reply done = read_(reply);
  done.first_token_seconds = done.statistics.first_token_seconds; // of this answer, not since the program began
  talk_.answer(done.outputs.front().text);
  last_ = std::move(done);
  tell_how_it_ended();
}

generation dialogue::begin_reply() {
  const bool shifts = options_.reply.generation.context_shift;
  if (shifts)
    make_room();
  try {
    return model_.get().chat(talk_.told(), answer_options());
  } catch (const error& e) {
    if (shifts || e.code() != errc::context_full)
      throw;
    throw error(e.code(), fmt::format("{} (/clear begins a new conversation)", sentence_of(e)));
  }
}

void dialogue::make_room() {
  const std::size_t context = model_.get().plan().context;
  const std::size_t room = std::min(options_.reply.generation.max_tokens, context / 4);
  const std::size_t left_out = talk_.make_room(
      context, room, [&](const std::vector<chat_message>& messages) { return tokens_of(messages, context); });
  if (left_out > 0)
    screen_.tell(fmt::format("(the context of {} tokens is full: from here on the model does not know the {} oldest "
                             "messages)",
                             context, left_out));
}

/// Tokens of a prompt; one that is too long to be counted has more than the context.
std::size_t dialogue::tokens_of(const std::vector<chat_message>& messages, std::size_t context) {
  try {
    return model_.get().encode(messages).size();
  } catch (const error& e) {
    if (e.code() != errc::context_full)
      throw;
    return context + 1;
  }
}

generation_options dialogue::answer_options() {
  generation_options o = options_.reply.generation;
  o.sampling.seed += retries_;
  o.context_shift = goes_on_when_full();
  if (!o.context_shift || o.context_keep > 0)
    return o;
  // An answer that outgrows the context makes it forget; what the assistant is told first stays.
  auto bare = talk_.told();
  bare.resize(talk_.system().empty() ? 0 : 1);
  bare.push_back({"user", ""});
  const auto told = model_.get().encode(talk_.told()), kept = model_.get().encode(bare);
  const auto differ = std::mismatch(told.begin(), told.end(), kept.begin(), kept.end()).first;
  const std::size_t max_keep = model_.get().plan().context / 2;
  o.context_keep = std::min(static_cast<std::size_t>(differ - told.begin()), max_keep > 0 ? max_keep - 1 : 0);
  return o;
}

bool dialogue::goes_on_when_full() const noexcept {
  const generation_options& o = options_.reply.generation;
  return o.context_shift && o.max_tokens != until_full;
}

void dialogue::tell_how_it_ended() {
  const generation_statistics& s = last_->statistics;
  const std::size_t context = model_.get().plan().context, tokens = s.prompt_tokens + s.generated_tokens;
  used_ = std::min(tokens, context);
  if (tokens > context + 1)
    screen_.tell(fmt::format(
        "(the answer outgrew the context of {} tokens: on the way the model forgot the older half)", context));
  if (s.finish == finish_reason::context)
    screen_.tell(options_.reply.generation.context_shift
                     ? fmt::format("(the answer ends where the context of {} tokens does)", context)
                     : fmt::format("(the context of {} tokens is full; /clear begins a new conversation)", context));
  else if (s.finish == finish_reason::length)
    screen_.tell(fmt::format("(stopped after {} tokens; /set max-tokens allows more)", s.generated_tokens));
  else if (s.finish == finish_reason::cancelled)
    screen_.tell("(stopped)");
  if (options_.stats)
    screen_.tell("[" + summary_line(*last_, model_.get()) + "]");
}

} // namespace tropilla::app
