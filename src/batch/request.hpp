/// Parses a line of a batch into a request: what it asks for, or why it can't be followed.
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
  std::string id = "null";             ///< as JSON: "id" or "custom_id"
  std::vector<batch_prompt> prompts{}; ///< several texts or lists of ids are answered in one record
  /// Whether special tokens count in a raw text, as in one that the client rendered itself: said by the line, or the
  /// format (OpenAI's completions). Else the encoder decides.
  std::optional<bool> special{};
  generation_options options{};
  std::size_t shown_logprobs = 0;           ///< most probable tokens to list with each; `options.logprobs` may be more
  std::vector<std::vector<token_id>> ids{}; ///< of each prompt, once tokenised
  std::optional<std::string> failure;       ///< why there is nothing to compute
};

/// Parses a line. Never throws for its contents: `failure` says what is wrong with it. `defaults` apply to what it
/// leaves out. `max_values` limits the JSON values of a line, where a list or an object counts as eight, and so bounds
/// the memory for it.
[[nodiscard]] batch_request parse_batch_request(const input_line& line, const generation_options& defaults,
                                                std::size_t max_values = std::size_t{1} << 24);

/// The largest number of replies that one line may ask for: prompts times "n".
constexpr std::size_t max_batch_replies = 128;

/// A prompt's ids; `special` as in `batch_request`. May throw `error`, which becomes the request's failure.
using prompt_encoder = std::function<std::vector<token_id>(const batch_prompt&, std::optional<bool> special)>;

} // namespace tropilla
