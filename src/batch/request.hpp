/// A line of a batch as a request: what it asks for, or why it can't be followed.
///
/// Two formats are read. Our own: {"id", "prompt" or "messages", "max_tokens", "temperature", ...}. And OpenAI's (its
/// Batch API guide, "Preparing your batch file"): {"custom_id", "method", "url", "body"}, with the url
/// /v1/chat/completions or /v1/completions.
#pragma once

#include "src/batch/line_reader.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tropilla {

enum class batch_format : std::uint8_t {
  plain,              ///< {"id", "prompt" or "messages"}
  openai_chat,        ///< "url": "/v1/chat/completions"
  openai_completions, ///< "url": "/v1/completions"
};

/// Raw text, a conversation (through the template), or ids as they are.
using batch_prompt = std::variant<std::string, std::vector<chat_message>, std::vector<token_id>>;

struct batch_request {
  std::size_t line = 0;          ///< of the input, from 1
  std::uint64_t fingerprint = 0; ///< `input_line::fingerprint`
  std::uint64_t bytes = 0;       ///< that the line takes in the input
  std::uint64_t passed = 0;      ///< bytes before it that were passed over since the request before: done, or blank
  batch_format format = batch_format::plain;
  std::string id = "null"; ///< as JSON: "id" or "custom_id"
  batch_prompt prompt{};
  generation_options options{};
  std::size_t shown_logprobs = 0;     ///< likeliest tokens to list with each; `options.logprobs` may be more
  std::vector<token_id> ids{};        ///< of the prompt, once tokenised
  std::optional<std::string> failure; ///< why there is nothing to compute
};

/// Never throws for what a line holds: `failure` says what is wrong with it. `defaults` are for what it leaves out.
[[nodiscard]] batch_request parse_batch_request(const input_line& line, const generation_options& defaults);

/// The prompt's ids. May throw `error`, which becomes the request's failure.
using prompt_encoder = std::function<std::vector<token_id>(const batch_prompt&)>;

} // namespace tropilla
