// Writes records as JSON and reads them back.
#include "src/batch/record.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

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

/// The finish reason in OpenAI's format, which knows no context that ends before max_tokens.
std::string_view openai_reason(finish_reason why) {
  return to_string(why == finish_reason::context ? finish_reason::length : why);
}

std::size_t shown(const std::vector<token_logprob>& of, const batch_request& r) {
  return of.empty() ? 0 : std::min(of.size() - 1, r.shown_logprobs);
}

std::string json_text_of(std::string_view text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string number(float value) {
  return json(value).dump();
}

/// A list, or what `items` appends one after another.
template <class Items, class Add>
void append_list(std::string& out, const Items& items, Add add) {
  out += '[';
  std::string_view separator;
  for (const auto& item : items) {
    out += separator;
    separator = ",";
    add(item);
  }
  out += ']';
}

/// The most probable tokens that are listed with a token.
std::span<const token_logprob> top_of(const std::vector<token_logprob>& at, const batch_request& r) {
  return at.empty() ? std::span<const token_logprob>{} : std::span(at).subspan(1, shown(at, r));
}

void append_plain_logprobs(std::string& out, const batch_output& o, const batch_request& r) {
  append_list(out, o.logprobs, [&](const std::vector<token_logprob>& at) {
    out += fmt::format(R"({{"id":{},"logprob":{},"top":)", at.front().id, number(at.front().logprob));
    append_list(out, top_of(at, r), [&](const token_logprob& t) {
      out += fmt::format(R"({{"id":{},"logprob":{}}})", t.id, number(t.logprob));
    });
    out += '}';
  });
}

/// Appends a token in the chat format, without its closing brace.
void append_chat_token(std::string& out, const token_logprob& token, const record_context& context) {
  const std::string text = context.text_of_token(token.id);
  out += fmt::format(R"({{"token":{},"logprob":{},"bytes":)", json_text_of(text), number(token.logprob));
  append_list(out, text, [&](char c) { out += fmt::format("{}", static_cast<unsigned char>(c)); });
}

void append_chat_logprobs(std::string& out, const batch_output& o, const batch_request& r,
                          const record_context& context) {
  out += R"({"content":)";
  append_list(out, o.logprobs, [&](const std::vector<token_logprob>& at) {
    append_chat_token(out, at.front(), context);
    out += R"(,"top_logprobs":)";
    append_list(out, top_of(at, r), [&](const token_logprob& t) {
      append_chat_token(out, t, context);
      out += '}';
    });
    out += '}';
  });
  out += '}';
}

void append_completion_logprobs(std::string& out, const batch_output& o, const batch_request& r,
                                const record_context& context) {
  using of_token = std::vector<token_logprob>;
  out += R"({"tokens":)";
  append_list(out, o.logprobs, [&](const of_token& at) { out += json_text_of(context.text_of_token(at.front().id)); });
  out += R"(,"token_logprobs":)";
  append_list(out, o.logprobs, [&](const of_token& at) { out += number(at.front().logprob); });
  out += R"(,"top_logprobs":)";
  append_list(out, o.logprobs, [&](const of_token& at) {
    auto top = ordered_json::object(); // tokens of the same text are one entry
    for (const auto& t : top_of(at, r))
      top[context.text_of_token(t.id)] = t.logprob;
    out += top.dump(-1, ' ', false, json::error_handler_t::replace);
  });
  out += '}';
}

void append_ids(std::string& out, const batch_output& o) {
  append_list(out, o.ids, [&](token_id id) { out += fmt::format("{}", id); });
}

/// The keys that make a record an entry of the journal.
std::string mark_text(const batch_request& r) {
  return fmt::format(R"("line":{},"input":"{:016x}")", r.line, r.fingerprint);
}

std::string plain_result(const batch_request& r, const std::vector<batch_output>& outputs,
                         const generation_statistics& s) {
  std::string out = fmt::format(R"({{"id":{},{})", r.id, mark_text(r));
  const bool several = outputs.size() != 1;
  const auto put = [&](std::string_view key, auto append) {
    out += fmt::format(R"(,"{}":)", key);
    if (several)
      append_list(out, outputs, append);
    else
      append(outputs.front());
  };
  put(several ? "texts" : "text", [&](const batch_output& o) { out += json_text_of(o.text); });
  put("ids", [&](const batch_output& o) { append_ids(out, o); });
  put(several ? "finish_reasons" : "finish_reason",
      [&](const batch_output& o) { out += json_text_of(to_string(o.finish)); });
  if (r.options.logprobs > 0)
    put("logprobs", [&](const batch_output& o) { append_plain_logprobs(out, o, r); });
  return out + fmt::format(R"(,"prompt_tokens":{},"generated_tokens":{}}})", s.prompt_tokens, s.generated_tokens);
}

void append_choices(std::string& out, const batch_request& r, const std::vector<batch_output>& outputs,
                    const record_context& context) {
  const bool chat = r.format == batch_format::openai_chat;
  std::size_t index = 0;
  append_list(out, outputs, [&](const batch_output& o) {
    out += fmt::format(R"({{"index":{},)", index++);
    out += chat ? fmt::format(R"("message":{{"role":"assistant","content":{}}})", json_text_of(o.text))
                : fmt::format(R"("text":{})", json_text_of(o.text));
    out += R"(,"logprobs":)";
    if (r.options.logprobs == 0)
      out += "null";
    else if (chat)
      append_chat_logprobs(out, o, r, context);
    else
      append_completion_logprobs(out, o, r, context);
    out += fmt::format(R"(,"finish_reason":"{}"}})", openai_reason(o.finish));
  });
}

ordered_json openai_head(const batch_request& r) {
  ordered_json record{{"id", fmt::format("batch_req_{}", r.line)}, {"custom_id", json::parse(r.id)}};
  mark(record, r);
  return record;
}

std::string openai_result(const batch_request& r, const std::vector<batch_output>& outputs,
                          const generation_statistics& s, const record_context& context) {
  const bool chat = r.format == batch_format::openai_chat;
  std::string out =
      fmt::format(R"({{"id":"batch_req_{}","custom_id":{},{},"response":{{"status_code":200,)"
                  R"("request_id":"req_{}","body":{{"id":"{}-{}","object":"{}","created":{},"model":{},)"
                  R"("choices":)",
                  r.line, r.id, mark_text(r), r.line, chat ? "chatcmpl" : "cmpl", r.line,
                  chat ? "chat.completion" : "text_completion", context.created, json_text_of(context.model));
  append_choices(out, r, outputs, context);
  return out +
         fmt::format(R"(,"usage":{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}}}}},"error":null}})",
                     s.prompt_tokens, s.generated_tokens, s.prompt_tokens + s.generated_tokens);
}

} // namespace

std::size_t reply_bytes(const batch_request& request, std::size_t context) {
  // Bytes of a token, in memory and as it is written: text that grows by doubling, an id, lists.
  constexpr std::size_t text_and_id = 32 + 16, list = 48;
  constexpr std::size_t of_plain = 40, of_openai = 120; // as JSON, of one log-probability
  const auto& o = request.options;
  const std::size_t tokens = o.context_shift ? o.max_tokens : std::min(o.max_tokens, context);
  std::size_t of_token = text_and_id;
  if (o.logprobs > 0)
    of_token += list + (o.logprobs + 1) *
                           (sizeof(token_logprob) + (request.format == batch_format::plain ? of_plain : of_openai));
  std::size_t bytes = 0;
  return __builtin_mul_overflow(tokens, request.ids.size() * o.outputs * of_token, &bytes)
             ? std::numeric_limits<std::size_t>::max()
             : bytes;
}

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
  return (request.format == batch_format::plain ? plain_result(request, outputs, statistics)
                                                : openai_result(request, outputs, statistics, context)) +
         "\n";
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
