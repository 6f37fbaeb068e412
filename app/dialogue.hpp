/// A conversation with a model: carries out the commands of `tropilla chat`.
#pragma once

#include "app/chat_input.hpp"
#include "app/chat_model.hpp"
#include "app/conversation.hpp"
#include "app/reply.hpp"
#include "app/screen.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace tropilla::app {

/// The options of `tropilla chat`.
struct chat_options {
  model_options model;
  reply_options reply;
  std::string system;
  bool stats = false;

  chat_options();
  void bind(option_binder& b);
  /// Binds the options that /set changes.
  void bind_settings(option_binder& b);
};

/// Holds messages, the model that answers them and the options of its answers. Every command throws `error`, and then
/// nothing has changed. One thread, except for `figures`.
class dialogue {
public:
  /// Reads a reply to its end and shows it meanwhile; its exceptions go through, and the conversation is as if nothing
  /// had been said.
  using reader = std::function<finished_reply(generation& reply)>;

  /// The model and the screen outlive it.
  dialogue(chat_options options, chat_model& model, chat_screen& screen, reader read);

  /// Obeys a command or answers a message. /help and /quit are the caller's.
  void obey(const chat_input& input);
  /// The options with which answers are drawn.
  [[nodiscard]] const reply_options& options() const noexcept { return options_.reply; }
  /// The text of /stats, /memory and /budget. May be called on another thread while a reply is read.
  [[nodiscard]] std::string figures(const chat_input& input);
  /// The names that may follow /set.
  [[nodiscard]] std::vector<std::string> names_of_settings();

private:
  void say(const std::string& text);
  void retry();
  void undo();
  void set_system(const std::string& text);
  void set(const std::string& text);
  void change_model(const std::string& name);
  void save(const std::string& name);
  void load(const std::string& name);

  void begin(const std::string& system);
  void answer();
  [[nodiscard]] generation begin_reply();
  void make_room();
  [[nodiscard]] std::size_t tokens_of(const std::vector<chat_message>& messages, std::size_t context);
  void tell_how_it_ended();
  [[nodiscard]] generation_options answer_options();
  [[nodiscard]] bool goes_on_when_full() const noexcept;

  chat_options options_;
  chat_model& model_;
  chat_screen& screen_;
  reader read_;
  conversation talk_;
  std::optional<finished_reply> last_;
  std::size_t used_ = 0;      ///< tokens of the context, after the last answer
  std::uint64_t retries_ = 0; ///< of the last message
};

} // namespace tropilla::app
