// Adds and removes exchanges, and writes messages as JSON and Markdown.
#include "app/conversation.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

namespace tropilla::app {

conversation conversation::with_system(const std::string& text) {
  return text.empty() ? conversation() : conversation({{"system", text}});
}

std::size_t conversation::first() const noexcept {
  return !messages_.empty() && messages_.front().role == "system" ? 1 : 0;
}

std::string conversation::system() const {
  return first() > 0 ? messages_.front().content : "";
}

std::vector<chat_message> conversation::from(std::size_t message) const {
  std::vector<chat_message> out(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(first()));
  out.insert(out.end(), messages_.begin() + static_cast<std::ptrdiff_t>(message), messages_.end());
  return out;
}

std::vector<chat_message> conversation::told() const {
  return from(first() + left_out_);
}

void conversation::reopen() {
  if (messages_.back().role == "assistant")
    messages_.pop_back();
}

std::string conversation::undo() {
  reopen();
  std::string said;
  if (!empty() && messages_.back().role == "user") {
    said = std::move(messages_.back().content);
    messages_.pop_back();
  }
  left_out_ = 0; // what was left out for this exchange may have room again
  return said;
}

std::size_t conversation::make_room(std::size_t context, std::size_t room, const token_counter& count) {
  if (count(told()) + room <= context)
    return 0;
  std::vector<std::size_t> begins; // of exchanges that could be the first
  for (std::size_t i = first() + left_out_ + 1; i < messages_.size(); ++i)
    if (messages_[i].role == "user")
      begins.push_back(i);
  if (begins.empty())
    begins.push_back(first() + left_out_);
  const auto too_long = [&](std::size_t begin) { return count(from(begin)) + context / 4 > context; };
  auto begin = std::partition_point(begins.begin(), begins.end(), too_long);
  if (begin == begins.end())
    --begin;
  if (const std::size_t tokens = count(from(*begin)); tokens >= context)
    throw error(errc::context_full,
                fmt::format("the message makes a prompt of {} tokens{}, and the context holds {}: shorten it, or start "
                            "with --ctx {} or more",
                            tokens, first() > 0 ? " with the system message" : "", context, tokens + 1));
  const std::size_t before = std::exchange(left_out_, *begin - first());
  return left_out_ - before;
}

std::string as_json(std::span<const chat_message> messages) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const chat_message& m : messages)
    out.push_back({{"role", m.role}, {"content", m.content}});
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string as_markdown(std::span<const chat_message> messages) {
  std::string out;
  for (const chat_message& m : messages)
    out += fmt::format("{}**{}**\n\n{}\n", out.empty() ? "" : "\n", m.role, m.content);
  return out;
}

std::vector<chat_message> messages_from_json(std::string_view text, std::string_view source) {
  const auto json = nlohmann::json::parse(text, nullptr, false); // also refuses what is no UTF-8
  std::vector<chat_message> messages;
  bool good = json.is_array();
  for (std::size_t i = 0; good && i < json.size(); ++i) {
    const auto& m = json[i];
    good = m.is_object() && m.contains("role") && m["role"].is_string() && m.contains("content") &&
           m["content"].is_string();
    if (good)
      messages.push_back({m["role"], m["content"]});
    good = good && (messages.back().role == "user" || messages.back().role == "assistant" ||
                    (messages.back().role == "system" && i == 0));
  }
  if (!good)
    throw error(errc::malformed_file, fmt::format("{} holds no conversation: another program saved it", source));
  return messages;
}

} // namespace tropilla::app
