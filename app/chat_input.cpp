// Joins lines to messages and parses commands; there is no terminal in here.
#include "app/chat_input.hpp"

#include "app/text.hpp"
#include "tropilla/error.hpp"

#include <array>
#include <fmt/format.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr std::string_view fence = "\"\"\"";

// In the order of /help; behind each other what means the same, as people know it from elsewhere.
constexpr auto chat_commands = std::to_array<std::pair<std::string_view, chat_command>>({
    {"/help", chat_command::help},     {"/?", chat_command::help},        {"/system", chat_command::system},
    {"/clear", chat_command::clear},   {"/reset", chat_command::clear},   {"/retry", chat_command::retry},
    {"/regen", chat_command::retry},   {"/undo", chat_command::undo},     {"/set", chat_command::set},
    {"/params", chat_command::params}, {"/model", chat_command::model},   {"/stats", chat_command::stats},
    {"/memory", chat_command::memory}, {"/budget", chat_command::budget}, {"/save", chat_command::save},
    {"/load", chat_command::load},     {"/bye", chat_command::quit},      {"/quit", chat_command::quit},
    {"/exit", chat_command::quit},
});

bool is_for_now(chat_command command) {
  return command == chat_command::memory || command == chat_command::budget || command == chat_command::stats ||
         command == chat_command::quit;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blanks);
  return begin == std::string_view::npos ? std::string_view{}
                                         : text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

} // namespace

bool is_pasted(std::string_view line) noexcept {
  return line.find('\n') != std::string_view::npos;
}

std::optional<std::string> line_joiner::take(std::string_view line) {
  if (is_pasted(line) && !unfinished_)
    return std::string(line);
  if (line.ends_with('\r'))
    line.remove_suffix(1);
  if (!unfinished_ && line.starts_with(fence)) {
    block_ = true;
    line.remove_prefix(fence.size());
    if (line.empty())
      return go_on(); // the text begins in the next line
  }
  if (block_ && line.ends_with(fence)) {
    line.remove_suffix(fence.size());
    add(line);
    if (line.empty() && text_.ends_with('\n'))
      text_.pop_back();
    return finish();
  }
  if (!block_ && line.ends_with('\\')) {
    line.remove_suffix(1);
    add(line);
    add("\n");
    return go_on();
  }
  add(line);
  if (!block_)
    return finish();
  add("\n");
  return go_on();
}

void line_joiner::add(std::string_view text) {
  if (text_.size() <= max_message_bytes)
    text_ += text.substr(0, max_message_bytes + 1 - text_.size());
}

std::optional<std::string> line_joiner::go_on() {
  unfinished_ = true;
  return std::nullopt;
}

std::string line_joiner::finish() {
  block_ = false;
  unfinished_ = false;
  return std::exchange(text_, {});
}

std::string line_joiner::rest() {
  std::string text = finish();
  if (text.ends_with('\n'))
    text.pop_back();
  return text;
}

void line_joiner::clear() noexcept {
  text_.clear();
  block_ = false;
  unfinished_ = false;
}

chat_input parse_chat_input(std::string_view text) {
  if (!text.starts_with('/'))
    return {chat_command::message, std::string(text)};
  if (text.starts_with("//"))
    return {chat_command::message, std::string(text.substr(1))};
  const std::size_t end = text.find_first_of(" \t\r\n");
  const std::string_view word = text.substr(0, end);
  for (const auto& [name, command] : chat_commands)
    if (name == word)
      return {command, std::string(trimmed(end == std::string_view::npos ? std::string_view{} : text.substr(end)))};
  std::vector<std::string> names;
  for (const auto& entry : chat_commands)
    names.emplace_back(entry.first);
  const std::string near = closest(word, names);
  throw error(errc::invalid_argument,
              fmt::format("there is no command {}{}; /help lists them, and // begins a message with a slash",
                          escape(shorten(word, 40)), near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
}

std::optional<chat_input> typeahead::take(std::string_view line) {
  if (lines_.empty())
    joiner_.clear(); // the rest of what waited was typed at a prompt
  const bool begins = !joiner_.unfinished() && !line.starts_with(fence) && !is_pasted(line);
  const auto message = joiner_.take(line);
  if (begins && message) {
    chat_input input = parse_chat_input(*message);
    if (is_for_now(input.command))
      return input;
  }
  lines_.emplace_back(line);
  return std::nullopt;
}

std::optional<std::string> typeahead::next() {
  if (lines_.empty())
    return std::nullopt;
  std::string line = std::move(lines_.front());
  lines_.pop_front();
  return line;
}

std::vector<std::string> complete_chat_line(std::string_view before, std::span<const std::string> settings) {
  std::vector<std::string> lines;
  if (!before.starts_with('/'))
    return lines;
  for (const auto& entry : chat_commands)
    if (entry.first.starts_with(before))
      lines.emplace_back(entry.first);
  for (const std::string& setting : settings)
    if (std::string line = "/set " + setting; before.size() >= 5 && line.starts_with(before))
      lines.push_back(std::move(line));
  return lines;
}

} // namespace tropilla::app
