/// Conversations as text: for people, for scripts, and for going on.
#pragma once

#include "tropilla/types.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// A JSON array of `{"role": ..., "content": ...}`; invalid UTF-8 is replaced.
[[nodiscard]] std::string as_json(std::span<const chat_message> messages);

/// Each message under its role.
[[nodiscard]] std::string as_markdown(std::span<const chat_message> messages);

/// What `as_json` wrote. Throws `error` (malformed_file) naming `source` for anything else.
[[nodiscard]] std::vector<chat_message> messages_from_json(std::string_view text, std::string_view source);

} // namespace tropilla::app
