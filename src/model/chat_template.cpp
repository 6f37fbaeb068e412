// The two formats are written out here; of the model's Jinja template only its literal strings are read.
#include "src/model/chat_template.hpp"

#include "src/model/utf8.hpp"

#include <array>
#include <fmt/format.h>
#include <optional>

namespace tropilla {
namespace {

constexpr std::string_view key_template = "tokenizer.chat_template";
constexpr std::array<std::string_view, 3> llama3_tokens{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
constexpr std::array<std::string_view, 2> chatml_tokens{"<|im_start|>", "<|im_end|>"};

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::optional<chat_format> recognise(std::string_view jinja) {
  if (contains(jinja, "<|start_header_id|>") && contains(jinja, "<|eot_id|>"))
    return chat_format::llama3;
  if (contains(jinja, "<|im_start|>") && contains(jinja, "<|im_end|>"))
    return chat_format::chatml;
  return std::nullopt;
}

chat_format choose(const std::string* jinja, std::string_view name) {
  constexpr std::string_view known = "name llama3 or chatml";
  if (name == "llama3")
    return chat_format::llama3;
  if (name == "chatml")
    return chat_format::chatml;
  if (!name.empty())
    throw error(errc::unsupported, fmt::format("there is no chat template {}: {}", utf8::quoted(name), known),
                remedy::chat_template);
  if (jinja == nullptr)
    throw error(errc::unsupported,
                fmt::format("the model has no chat template, as base models don't; give a raw "
                            "prompt, or {}",
                            known),
                remedy::chat_template);
  const auto format = recognise(*jinja);
  if (!format)
    throw error(
        errc::unsupported,
        fmt::format("the model's chat template is neither Llama 3's nor ChatML: {}, or give a raw prompt", known),
        remedy::chat_template);
  return *format;
}

// What stands between `begin` and `end` inside one string literal of a Jinja template, its escapes resolved.
std::optional<std::string> find_literal(std::string_view jinja, std::string_view begin, std::string_view end) {
  for (std::size_t at = jinja.find(begin); at != std::string_view::npos; at = jinja.find(begin, at + 1)) {
    const std::string_view rest = jinja.substr(at + begin.size());
    std::string text;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (rest.substr(i).starts_with(end))
        return text;
      const char c = rest[i];
      if (c == '\'' || c == '"' || c == '{')
        break; // the literal ends, and something computed follows
      if (c != '\\' || i + 1 == rest.size()) {
        text += c;
        continue;
      }
      const char escaped = rest[++i];
      text += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
    }
  }
  return std::nullopt;
}

// The message that a ChatML template adds before a conversation without one. Line breaks are escaped or real.
std::string find_default_system(std::string_view jinja) {
  for (const std::string_view begin : {"<|im_start|>system\\n", "<|im_start|>system\n"})
    if (auto text = find_literal(jinja, begin, "<|im_end|>"))
      return *text;
  return {};
}

// Llama 3.1 and later put two dates before the system message. The day is the one that the template itself names,
// so that the same conversation gives the same ids tomorrow.
std::string find_dates(std::string_view jinja) {
  if (!contains(jinja, "Cutting Knowledge Date: December 2023"))
    return {};
  const auto day = find_literal(jinja, "set date_string = \"", "\"");
  return fmt::format("Cutting Knowledge Date: December 2023\nToday Date: {}\n\n", day.value_or("26 Jul 2024"));
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view space = " \t\n\r\v\f";
  const std::size_t begin = text.find_first_not_of(space);
  return begin == std::string_view::npos ? std::string_view{}
                                         : text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

void require_tokens(const tokenizer& tok, std::span<const std::string_view> texts, std::string_view name) {
  for (const std::string_view text : texts)
    if (!tok.find_special(text))
      throw error(
          errc::unsupported,
          fmt::format("the chat template {} needs the token {}, which the model's vocabulary lacks", name, text));
}

// Appends to the ids of a conversation. All that is not a special token goes through `encode` as plain text.
class writer {
public:
  explicit writer(const tokenizer& tok) : tok_(tok) {}

  void special(std::string_view text) { ids_.push_back(tok_.find_special(text).value()); }
  void id(token_id id) { ids_.push_back(id); }
  void text(std::string_view text) {
    const auto ids = tok_.encode(text);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  void llama3_header(std::string_view role) {
    special("<|start_header_id|>");
    text(role);
    special("<|end_header_id|>");
  }
  void llama3_turn(std::string_view role, std::string_view content) {
    llama3_header(role);
    text(fmt::format("\n\n{}", content));
    special("<|eot_id|>");
  }
  void chatml_turn(std::string_view role, std::string_view content) {
    special("<|im_start|>");
    text(fmt::format("{}\n{}", role, content));
    special("<|im_end|>");
    text("\n");
  }
  std::vector<token_id> take() { return std::move(ids_); }

private:
  const tokenizer& tok_;
  std::vector<token_id> ids_;
};

} // namespace

chat_template chat_template::from_model(const gguf_file& file, const tokenizer& tok, std::string_view name) {
  const std::string* jinja = file.find_text(key_template);
  chat_template made;
  made.format_ = choose(jinja, name);
  // The model's own template says more than its format does, if that is the format asked for.
  const bool own = jinja != nullptr && recognise(*jinja) == made.format_;
  if (made.format_ == chat_format::llama3) {
    require_tokens(tok, llama3_tokens, made.name());
    made.bos_ = tok.bos() >= 0;
    if (own)
      made.system_prefix_ = find_dates(*jinja);
  } else {
    require_tokens(tok, chatml_tokens, made.name());
    made.bos_ = tok.bos() >= 0 && (own ? contains(*jinja, "bos_token") : tok.add_bos());
    if (own)
      made.default_system_ = find_default_system(*jinja);
  }
  return made;
}

std::vector<token_id> chat_template::encode(const tokenizer& tok, std::span<const chat_message> messages) const {
  for (const chat_message& m : messages)
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      throw error(errc::invalid_argument,
                  fmt::format("{} is no role of a conversation: use system, user or assistant", utf8::quoted(m.role)));
  writer out(tok);
  if (bos_)
    out.id(tok.bos());
  const bool has_system = !messages.empty() && messages.front().role == "system";
  if (format_ == chat_format::llama3) {
    if (!has_system && !system_prefix_.empty())
      out.llama3_turn("system", system_prefix_);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const std::string_view content = trim(messages[i].content);
      const bool dated = i == 0 && has_system;
      out.llama3_turn(messages[i].role, dated ? fmt::format("{}{}", system_prefix_, content) : std::string(content));
    }
    out.llama3_header("assistant");
    out.text("\n\n");
  } else {
    if (!has_system && !messages.empty() && !default_system_.empty())
      out.chatml_turn("system", default_system_);
    for (const chat_message& m : messages)
      out.chatml_turn(m.role, m.content);
    out.special("<|im_start|>");
    out.text("assistant\n");
  }
  return out.take();
}

std::string_view chat_template::name() const noexcept {
  return format_ == chat_format::llama3 ? "llama3" : "chatml";
}

} // namespace tropilla
