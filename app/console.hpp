/// The console of `tropilla chat`: reads lines from a person or a pipe and answers them.
#pragma once

#include "app/chat_input.hpp"
#include "app/dialogue.hpp"
#include "app/keys.hpp"
#include "app/line_editor.hpp"
#include "app/terminal_session.hpp"

#include <optional>
#include <string>

namespace tropilla::app {

/// Reads messages and commands and has a dialogue obey them, until the person leaves. One per program.
class console {
public:
  /// Whether lines are edited, which needs a terminal that can do that as standard input and output. A
  /// `terminal_session` is needed then.
  [[nodiscard]] static bool edits();

  /// `terminal`: null where lines are not edited.
  console(const chat_options& options, chat_model& model, terminal_session* terminal, command_context& context);

  /// Returns when the person left. A line that can't be obeyed or answered is complained of and changes nothing; if
  /// there was one among the lines of a pipe, `already_said` is thrown at their end. Throws `output_closed`, and
  /// `error` where there is no model any more.
  void run();

private:
  void greet();
  void take_lines();
  [[nodiscard]] std::string prompt() const;
  [[nodiscard]] std::string sign() const;
  [[nodiscard]] line_end next_line(std::string& line);
  void interrupt();
  void refuse(const error& why);
  void end_input();
  [[nodiscard]] bool take(const std::string& text, bool block);
  [[nodiscard]] finished_reply read(generation& reply);
  void take_meanwhile(const std::string& line, generation& reply);
  void leave_meanwhile(generation& reply);

  command_context& context_;
  bool quiet_;
  chat_screen screen_;
  terminal_session* terminal_; ///< where lines are edited
  dialogue dialogue_;
  line_editor editor_;
  chat_model& model_;
  line_joiner joiner_;
  typeahead ahead_;
  unseen_line unfinished_; ///< typed during an answer
  bool leaving_ = false;
  bool complained_ = false;
};

} // namespace tropilla::app
