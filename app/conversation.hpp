/// Keeps the messages of a conversation and which of them the model is told, and turns them into text: for people, for
/// scripts, and for going on.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// Tokens of the prompt that some messages make.
using token_counter = std::function<std::size_t(const std::vector<chat_message>&)>;

/// A system message, or none, and exchanges: what a person said and the answer to it. The oldest exchanges may be left
/// out of what the model is told. It is a value: a caller that may fail keeps a copy.
class conversation {
public:
  conversation() = default;
  /// @pre only the first message may be a system message
  explicit conversation(std::vector<chat_message> messages) : messages_(std::move(messages)) {}
  /// Makes a new conversation; an empty text is no system message.
  static conversation with_system(const std::string& text);

  /// The text of the system message, or nothing.
  [[nodiscard]] std::string system() const;
  [[nodiscard]] const std::vector<chat_message>& all() const noexcept { return messages_; }
  /// The system message and the exchanges that are not left out.
  [[nodiscard]] std::vector<chat_message> told() const;
  /// Whether there is an exchange.
  [[nodiscard]] bool empty() const noexcept { return messages_.size() == first(); }

  void ask(std::string text) { messages_.push_back({"user", std::move(text)}); }
  void answer(std::string text) { messages_.push_back({"assistant", std::move(text)}); }
  /// Takes the last answer back, so that its question is the last message. @pre not empty()
  void reopen();
  /// Takes the last exchange back; returns what the person said. @pre not empty()
  std::string undo();

  /// Leaves out the oldest exchanges where the prompt and `room` tokens behind it exceed the context: so many that a
  /// quarter of it is free, for leaving out makes the model read again what stays. The last message stays. Returns how
  /// many messages more than before are left out. Throws `error` (context_full), and changes nothing, when what stays
  /// does not fit by itself.
  std::size_t make_room(std::size_t context, std::size_t room, const token_counter& count);

private:
  [[nodiscard]] std::size_t first() const noexcept;
  [[nodiscard]] std::vector<chat_message> from(std::size_t message) const;

  std::vector<chat_message> messages_;
  std::size_t left_out_ = 0; ///< messages behind the system message
};

/// A JSON array of `{"role": ..., "content": ...}`; invalid UTF-8 is replaced.
[[nodiscard]] std::string as_json(std::span<const chat_message> messages);

/// Each message under its role.
[[nodiscard]] std::string as_markdown(std::span<const chat_message> messages);

/// Parses what `as_json` wrote. Throws `error` (malformed_file) naming `source` for anything else.
[[nodiscard]] std::vector<chat_message> messages_from_json(std::string_view text, std::string_view source);

} // namespace tropilla::app
