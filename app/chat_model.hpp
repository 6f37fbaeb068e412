/// Holds the model of a conversation, which may be changed for another.
#pragma once

#include "app/command.hpp"

#include <filesystem>
#include <optional>
#include <string>

namespace tropilla::app {

/// An open model and how it was opened. One thread; the runtime's as its own rules say.
class chat_model {
public:
  /// Opens it and waits until its weights are there, with a progress display; Ctrl-C ends the program meanwhile. Throws
  /// as `loaded_runtime`.
  chat_model(model_options options, command_context& context);

  /// False after `change` could open neither: nothing but to end is left then.
  [[nodiscard]] bool is_open() const noexcept { return open_.has_value(); }
  [[nodiscard]] runtime& get() noexcept { return open_->get(); }
  /// "SmolLM2 135M: 134.5 M parameters, Q4_1; 4096 tokens of context, 2 threads", with the name in bold.
  [[nodiscard]] std::string describe(const terminal_facts& screen);
  [[nodiscard]] const std::filesystem::path& file() const noexcept { return file_; }

  /// Closes it and opens another, which `name` means as -m does, with the same options: a budget has no room for two.
  /// Throws `error`: where the file alone shows that it can't be, before anything changed; else this one is open again,
  /// and the sentence says so. Where that fails, too, `is_open` is false.
  void change(const std::string& name);

private:
  void open();
  void open_again(const model_options& former, const std::vector<memory_report>& budgets);

  model_options options_;
  command_context& context_;
  std::filesystem::path file_;
  std::optional<loaded_runtime> open_;
};

} // namespace tropilla::app
