// JSON and Markdown of messages.
#include "src/app/conversation.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tropilla::app {

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
