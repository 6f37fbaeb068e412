// Records to and from JSON.
#include "src/batch/record.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tropilla {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string as_line(const ordered_json& record) {
  return record.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

/// The keys that make a record an entry of the journal.
void mark(ordered_json& record, const batch_request& r) {
  record["line"] = r.line;
  record["input"] = fmt::format("{:016x}", r.fingerprint);
}

/// OpenAI knows no context that ends before max_tokens.
std::string_view openai_reason(finish_reason why) {
  return to_string(why == finish_reason::context ? finish_reason::length : why);
}

std::size_t shown(const std::vector<token_logprob>& of, const batch_request& r) {
  return of.empty() ? 0 : std::min(of.size() - 1, r.shown_logprobs);
}

ordered_json plain_logprobs(const batch_output& o, const batch_request& r) {
  auto list = ordered_json::array();
  for (const auto& at : o.logprobs) {
    auto likeliest = ordered_json::array();
    for (std::size_t i = 0; i < shown(at, r); ++i)
      likeliest.push_back({{"id", at[i + 1].id}, {"logprob", at[i + 1].logprob}});
    list.push_back({{"id", at.front().id}, {"logprob", at.front().logprob}, {"top", std::move(likeliest)}});
  }
  return list;
}

ordered_json chat_token(const token_logprob& token, const record_context& context) {
  const std::string text = context.text_of_token(token.id);
  auto bytes = ordered_json::array();
  for (const char c : text)
    bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", token.logprob}, {"bytes", std::move(bytes)}};
}

ordered_json chat_logprobs(const batch_output& o, const batch_request& r, const record_context& context) {
  if (r.options.logprobs == 0)
    return nullptr;
  auto content = ordered_json::array();
  for (const auto& at : o.logprobs) {
    auto token = chat_token(at.front(), context);
    auto likeliest = ordered_json::array();
    for (std::size_t i = 0; i < shown(at, r); ++i)
      likeliest.push_back(chat_token(at[i + 1], context));
    token["top_logprobs"] = std::move(likeliest);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}};
}

ordered_json completion_logprobs(const batch_output& o, const batch_request& r, const record_context& context) {
  if (r.options.logprobs == 0)
    return nullptr;
  auto tokens = ordered_json::array();
  auto values = ordered_json::array();
  auto likeliest = ordered_json::array();
  for (const auto& at : o.logprobs) {
    tokens.push_back(context.text_of_token(at.front().id));
    values.push_back(at.front().logprob);
    auto top = ordered_json::object();
    for (std::size_t i = 0; i < shown(at, r); ++i)
      top[context.text_of_token(at[i + 1].id)] = at[i + 1].logprob;
    likeliest.push_back(std::move(top));
  }
  return {{"tokens", std::move(tokens)}, {"token_logprobs", std::move(values)}, {"top_logprobs", std::move(likeliest)}};
}

ordered_json plain_result(const batch_request& r, const std::vector<batch_output>& outputs,
                          const generation_statistics& s) {
  ordered_json record{{"id", json::parse(r.id)}};
  mark(record, r);
  const bool several = outputs.size() != 1;
  for (const char* key : {"text", "ids", "finish_reason", "logprobs"}) {
    const std::string_view what = key;
    if (what == "logprobs" && r.options.logprobs == 0)
      continue;
    auto list = ordered_json::array();
    for (const auto& o : outputs)
      list.push_back(what == "text"            ? ordered_json(o.text)
                     : what == "ids"           ? ordered_json(o.ids)
                     : what == "finish_reason" ? ordered_json(to_string(o.finish))
                                               : plain_logprobs(o, r));
    const bool plural = several && (what == "text" || what == "finish_reason");
    record[plural ? std::string(key) + "s" : key] = several ? std::move(list) : std::move(list.front());
  }
  record["prompt_tokens"] = s.prompt_tokens;
  record["generated_tokens"] = s.generated_tokens;
  return record;
}

ordered_json openai_choices(const batch_request& r, const std::vector<batch_output>& outputs,
                            const record_context& context) {
  auto choices = ordered_json::array();
  for (const auto& o : outputs) {
    ordered_json choice{{"index", choices.size()}};
    if (r.format == batch_format::openai_chat) {
      choice["message"] = {{"role", "assistant"}, {"content", o.text}};
      choice["logprobs"] = chat_logprobs(o, r, context);
    } else {
      choice["text"] = o.text;
      choice["logprobs"] = completion_logprobs(o, r, context);
    }
    choice["finish_reason"] = openai_reason(o.finish);
    choices.push_back(std::move(choice));
  }
  return choices;
}

ordered_json openai_head(const batch_request& r) {
  ordered_json record{{"id", fmt::format("batch_req_{}", r.line)}, {"custom_id", json::parse(r.id)}};
  mark(record, r);
  return record;
}

ordered_json openai_result(const batch_request& r, const std::vector<batch_output>& outputs,
                           const generation_statistics& s, const record_context& context) {
  const bool chat = r.format == batch_format::openai_chat;
  auto record = openai_head(r);
  const ordered_json usage{{"prompt_tokens", s.prompt_tokens},
                           {"completion_tokens", s.generated_tokens},
                           {"total_tokens", s.prompt_tokens + s.generated_tokens}};
  const ordered_json body{{"id", fmt::format("{}-{}", chat ? "chatcmpl" : "cmpl", r.line)},
                          {"object", chat ? "chat.completion" : "text_completion"},
                          {"created", context.created},
                          {"model", context.model},
                          {"choices", openai_choices(r, outputs, context)},
                          {"usage", usage}};
  record["response"] = {{"status_code", 200}, {"request_id", fmt::format("req_{}", r.line)}, {"body", body}};
  record["error"] = nullptr;
  return record;
}

} // namespace

void batch_output::add(piece p) {
  text += p.text;
  if (p.id >= 0) {
    ids.push_back(p.id);
    if (!p.logprobs.empty())
      logprobs.push_back(std::move(p.logprobs));
  }
  if (p.finish)
    finish = *p.finish;
}

std::string result_record(const batch_request& request, const std::vector<batch_output>& outputs,
                          const generation_statistics& statistics, const record_context& context) {
  return as_line(request.format == batch_format::plain ? plain_result(request, outputs, statistics)
                                                       : openai_result(request, outputs, statistics, context));
}

std::string failure_record(const batch_request& request, errc code, std::string_view why) {
  if (request.format == batch_format::plain) {
    ordered_json record{{"id", json::parse(request.id)}};
    mark(record, request);
    record["error"] = why;
    return as_line(record);
  }
  auto record = openai_head(request);
  record["response"] = nullptr;
  record["error"] = {{"code", to_string(code)}, {"message", why}};
  return as_line(record);
}

record_mark read_record(std::string_view line) {
  const json record = json::parse(line, nullptr, false);
  const auto missing = [](std::string_view what) {
    throw error(errc::malformed_file, fmt::format("it is no record of a batch: {}", what));
  };
  if (!record.is_object())
    missing("not a JSON object");
  const auto number = record.find("line");
  if (number == record.end() || !number->is_number_unsigned() || *number == 0)
    missing("it has no \"line\"");
  const auto input = record.find("input");
  const auto why = record.find("error");
  record_mark m{number->get<std::size_t>(), 0, why != record.end() && !why->is_null()};
  if (input == record.end() || !input->is_string())
    missing("it has no \"input\"");
  const auto& digits = input->get_ref<const std::string&>();
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), m.fingerprint, 16);
  if (parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size())
    missing("its \"input\" is no fingerprint");
  return m;
}

} // namespace tropilla
