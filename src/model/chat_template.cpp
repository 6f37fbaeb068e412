// Writes the two formats out; of the model's Jinja template only its literals are read.
#include "src/model/chat_template.hpp"

#include "src/model/template_text.hpp"
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

std::string_view trim(std::string_view text) {
  constexpr std::string_view space = " \t\n\r\v\f";
  const std::size_t begin = text.find_first_not_of(space);
  return begin == std::string_view::npos ? std::string_view{}
                                         : text.substr(begin, text.find_last_not_of(space) - begin + 1);
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

constexpr std::string_view cut_off = "Cutting Knowledge Date: December 2023";

// Llama 3.1 and later put two dates before the system message. The day is the one that the template itself names,
// so that the same conversation gives the same ids tomorrow.
std::string find_dates(const template_text& jinja, std::string_view source) {
  if (!contains(source, cut_off))
    return {};
  return fmt::format("{}\nToday Date: {}\n\n", cut_off, jinja.assigned_to("date_string").value_or("26 Jul 2024"));
}

// The message that a template adds before a conversation without one: written in its place, or given to a variable.
std::string find_default_system(const template_text& jinja, chat_format format) {
  const bool llama3 = format == chat_format::llama3;
  const auto text = llama3 ? jinja.between("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")
                           : jinja.between("<|im_start|>system\n", "<|im_end|>");
  return text ? *text : jinja.assigned_to("system").value_or("");
}

// Finds text of a template that the format leaves out, as a sentence.
std::optional<std::string> find_omission(const template_text& jinja, std::string_view name, std::string_view dates,
                                         std::string_view default_system) {
  const auto other = jinja.other_than({default_system, dates, cut_off, "Today Date: ", "system", "user", "assistant"});
  if (!other)
    return std::nullopt;
  return fmt::format("the model's chat template writes {}, which tropilla's {} format does not: replies may be worse "
                     "than with a raw prompt that the template rendered",
                     utf8::quoted(trim(*other)), name);
}

void require_tokens(const tokenizer& tok, std::span<const std::string_view> texts, std::string_view name) {
  for (const std::string_view text : texts)
    if (!tok.find_special(text))
      throw error(
          errc::unsupported,
          fmt::format("the chat template {} needs the token {}, which the model's vocabulary lacks", name, text));
}

// Appends to the ids of a conversation. All that is not a special token goes through `encode` as plain text.
class template_writer {
public:
  explicit template_writer(const tokenizer& tok) : tok_(tok) {}

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
  const bool llama3 = made.format_ == chat_format::llama3;
  require_tokens(tok, llama3 ? std::span<const std::string_view>(llama3_tokens) : chatml_tokens, made.name());
  // The model's own template says more than its format does, if that is the format asked for.
  const bool own = jinja != nullptr && recognise(*jinja) == made.format_;
  made.bos_ = tok.bos() >= 0 && (llama3 || (own ? contains(*jinja, "bos_token") : tok.add_bos()));
  if (!own)
    return made;
  const template_text text(*jinja);
  made.default_system_ = find_default_system(text, made.format_);
  if (llama3 && !contains(made.default_system_, cut_off))
    made.system_prefix_ = find_dates(text, *jinja);
  if (auto omission = find_omission(text, made.name(), made.system_prefix_, made.default_system_))
    made.notices_.push_back(std::move(*omission));
  return made;
}

std::vector<token_id> chat_template::encode(const tokenizer& tok, std::span<const chat_message> messages) const {
  for (const chat_message& m : messages)
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      throw error(errc::invalid_argument,
                  fmt::format("{} is no role of a conversation: use system, user or assistant", utf8::quoted(m.role)));
  template_writer out(tok);
  if (bos_)
    out.id(tok.bos());
  const bool has_system = !messages.empty() && messages.front().role == "system";
  if (format_ == chat_format::llama3) {
    if (!has_system && !(system_prefix_.empty() && default_system_.empty()))
      out.llama3_turn("system", system_prefix_ + default_system_);
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
