/// Turns conversations into token ids, in the format that the model was trained on.
#pragma once

#include "src/model/tokenizer.hpp"
#include "tropilla/types.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

enum class chat_format { llama3, chatml };

/// A known format, and what the model's own template adds to it: a default system prompt, Llama 3.1's dates. They are
/// read from its literals (`template_text`); text of it that finds no place in the format is a notice.
///
/// Llama 3 (Meta's model card): BOS, then for each message `<|start_header_id|>ROLE<|end_header_id|>`, two line
/// breaks, the content without white space around it, `<|eot_id|>`. Templates of Llama 3.1 and later put "Cutting
/// Knowledge Date" and "Today Date" before the system message; so do we where the model's template does, with the day
/// that it names as default, never today's. Models whose template has no dates get none.
/// ChatML: `<|im_start|>ROLE`, a line break, the content as it is, `<|im_end|>`, a line break; BOS where the template
/// names `bos_token` (asked for by name on a model without it: where the model wants BOS).
class chat_template {
public:
  /// Recognises the format from the model's `tokenizer.chat_template`.
  /// `name` ("llama3", "chatml", or "" for the model's own) overrides.
  /// Throws `error` (unsupported): an unknown template (says what to do instead), or special tokens the vocabulary
  /// lacks.
  [[nodiscard]] static chat_template from_model(const gguf_file& file, const tokenizer& tok,
                                                std::string_view name = "");

  /// Ids of the conversation, ready for the assistant's answer. Contents are encoded as plain text: what looks like a
  /// special token in them stays text. Throws `error` (invalid_argument) for an unknown role.
  [[nodiscard]] std::vector<token_id> encode(const tokenizer& tok, std::span<const chat_message> messages) const;

  [[nodiscard]] chat_format format() const noexcept { return format_; }
  [[nodiscard]] std::string_view name() const noexcept;
  /// Sentences about text of the model's template that conversations lack.
  [[nodiscard]] std::span<const std::string> notices() const noexcept { return notices_; }

private:
  chat_format format_ = chat_format::chatml;
  std::string default_system_; ///< used when the conversation has no system message and the template adds one
  std::string system_prefix_;  ///< begins the system message, and makes one where there is none
  bool bos_ = false;
  std::vector<std::string> notices_;
};

} // namespace tropilla
