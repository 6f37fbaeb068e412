// Parses JSON into options, strictly: a value of the wrong type is a failure that names the key, never a default.
#include "src/batch/request.hpp"

#include "tropilla/error.hpp"

#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>

namespace tropilla {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::string& why) {
  throw error(errc::invalid_argument, why);
}

/// Shows a value in a message, at most 40 bytes of it. Lists and objects by their kind: writing them out recurses, as
/// deep as a line nests them.
std::string shown(const json& value) {
  if (value.is_structured())
    return value.empty() ? (value.is_array() ? "[]" : "{}") : value.is_array() ? "a list" : "an object";
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= 40 ? text : text.substr(0, 37) + "...";
}

/// A key's value, or null where it is absent or null.
const json* find(const json& from, const char* key) {
  const auto it = from.find(key);
  return it == from.end() || it->is_null() ? nullptr : &*it;
}

template <class Integer>
std::optional<Integer> whole_number(const json& value) {
  if (value.is_number_unsigned()) {
    const auto n = value.get<std::uint64_t>();
    if (n <= static_cast<std::uint64_t>(std::numeric_limits<Integer>::max()))
      return static_cast<Integer>(n);
  } else if (value.is_number_integer()) {
    const auto n = value.get<std::int64_t>();
    if (std::is_signed_v<Integer> && n >= static_cast<std::int64_t>(std::numeric_limits<Integer>::min()))
      return static_cast<Integer>(n);
  }
  return std::nullopt;
}

void read(const json& from, const char* key, double& to) {
  if (const json* value = find(from, key)) {
    if (!value->is_number())
      refuse(fmt::format("\"{}\" must be a number, not {}", key, shown(*value)));
    to = value->get<double>();
  }
}

void read(const json& from, const char* key, bool& to) {
  if (const json* value = find(from, key)) {
    if (!value->is_boolean())
      refuse(fmt::format("\"{}\" must be true or false, not {}", key, shown(*value)));
    to = value->get<bool>();
  }
}

void read(const json& from, const char* key, std::size_t& to, std::size_t min = 0) {
  constexpr std::size_t max = std::numeric_limits<std::int32_t>::max();
  if (const json* value = find(from, key)) {
    const auto number = whole_number<std::size_t>(*value);
    if (!number || *number < min || *number > max)
      refuse(fmt::format("\"{}\" must be a whole number from {} to {}, not {}", key, min, max, shown(*value)));
    to = *number;
  }
}

std::vector<token_id> read_ids(const json& value, const char* key) {
  std::vector<token_id> ids;
  for (const json& one : value) {
    const auto id = whole_number<token_id>(one);
    if (!id || *id < 0)
      refuse(fmt::format("\"{}\" must hold ids of tokens, not {}", key, shown(one)));
    ids.push_back(*id);
  }
  return ids;
}

void read(const json& from, const char* key, std::vector<token_id>& to) {
  if (const json* value = find(from, key)) {
    if (!value->is_array())
      refuse(fmt::format("\"{}\" must be a list of token ids, not {}", key, shown(*value)));
    to = read_ids(*value, key);
  }
}

/// Reads top_k. -1 stands for all tokens, as in vLLM.
void read_top_k(const json& from, std::size_t& to) {
  const json* value = find(from, "top_k");
  if (value && *value == -1)
    to = 0;
  else
    read(from, "top_k", to);
}

void read_seed(const json& from, std::uint64_t& to) {
  const json* value = find(from, "seed");
  if (!value)
    return;
  if (const auto number = whole_number<std::uint64_t>(*value))
    to = *number;
  else if (const auto negative = whole_number<std::int64_t>(*value)) // OpenAI's may be
    to = static_cast<std::uint64_t>(*negative);
  else
    refuse(fmt::format("\"seed\" must be a whole number, not {}", shown(*value)));
}

void read_stop(const json& from, std::vector<std::string>& to) {
  const json* value = find(from, "stop");
  if (!value)
    return;
  to.clear();
  const auto add = [&](const json& one) {
    if (!one.is_string())
      refuse(fmt::format("\"stop\" must be a text or a list of texts, not {}", shown(*value)));
    to.push_back(one.get<std::string>());
  };
  if (value->is_array())
    for (const json& one : *value)
      add(one);
  else
    add(*value);
}

/// {"TOKEN": BIAS}. OpenAI's reference: values like -100 should ban a token.
void read_bias(const json& from, std::vector<logit_bias>& to) {
  const json* value = find(from, "logit_bias");
  if (!value)
    return;
  if (!value->is_object())
    refuse(fmt::format("\"logit_bias\" must be an object of token ids and numbers, not {}", shown(*value)));
  to.clear();
  for (const auto& [key, bias] : value->items()) {
    const json id = json::parse(key, nullptr, false);
    const auto token = id.is_discarded() ? std::nullopt : whole_number<token_id>(id);
    if (!token || !bias.is_number())
      refuse(fmt::format("\"logit_bias\" must be an object of token ids and numbers, not {}", shown(*value)));
    const auto number = bias.get<float>();
    to.push_back({*token, number <= -100 ? -std::numeric_limits<float>::infinity() : number});
  }
}

void read_priority(const json& from, int& to) {
  if (const json* value = find(from, "priority")) {
    const auto number = whole_number<int>(*value);
    if (!number)
      refuse(fmt::format("\"priority\" must be a whole number, not {}", shown(*value)));
    to = *number;
  }
}

void read_seconds(const json& from, const char* key, double& to) {
  read(from, key, to);
  if (!(to >= 0 && to <= 1e9))
    refuse(fmt::format("\"{}\" must be seconds from 0 to 1e9, not {}", key, to));
}

void read_options(const json& from, generation_options& o) {
  auto& s = o.sampling;
  read(from, "max_tokens", o.max_tokens, 1);
  read(from, "temperature", s.temperature);
  read_top_k(from, s.top_k);
  read(from, "top_p", s.top_p);
  read(from, "min_p", s.min_p);
  read(from, "typical_p", s.typical_p);
  read(from, "repetition_penalty", s.repetition_penalty);
  read(from, "frequency_penalty", s.frequency_penalty);
  read(from, "presence_penalty", s.presence_penalty);
  read(from, "penalty_window", s.penalty_window);
  read(from, "banned", s.banned);
  read(from, "stop_tokens", o.stop_tokens);
  read(from, "ignore_eos", o.ignore_eos);
  read(from, "n", o.outputs, 1);
  read_seed(from, s.seed);
  read_stop(from, o.stop);
  read_bias(from, s.bias);
  read_priority(from, o.priority);
  read_seconds(from, "timeout", o.timeout_seconds);
  read_seconds(from, "deadline", o.deadline_seconds);
}

/// A message's text: a text, or OpenAI's list of parts of type "text".
std::string content_of(const json& message) {
  const json* content = find(message, "content");
  if (content && content->is_string())
    return content->get<std::string>();
  if (!content || !content->is_array())
    refuse("a message has no \"content\" that is a text");
  std::string text;
  for (const json& part : *content) {
    const json* words = part.is_object() ? find(part, "text") : nullptr;
    if (!words || !words->is_string())
      refuse(fmt::format("a message has a part that is no text: {}", shown(part)));
    text += words->get<std::string>();
  }
  return text;
}

std::vector<chat_message> read_messages(const json& value) {
  if (!value.is_array() || value.empty())
    refuse(fmt::format("\"messages\" must be a list of messages, not {}", shown(value)));
  std::vector<chat_message> messages;
  for (const json& one : value) {
    const json* role = one.is_object() ? find(one, "role") : nullptr;
    if (!role || !role->is_string())
      refuse("a message has no \"role\" that is a text");
    // OpenAI's newer models call the system's role so.
    const bool developer = *role == "developer";
    messages.push_back({developer ? "system" : role->get<std::string>(), content_of(one)});
  }
  return messages;
}

/// A text or a list of ids, or a list of either, as OpenAI's completions take them.
std::vector<batch_prompt> read_raw(const json& value) {
  if (value.is_string())
    return {value.get<std::string>()};
  const auto refuse_value = [&] {
    refuse(fmt::format("\"prompt\" must be a text, a list of token ids, or a list of either, not {}", shown(value)));
  };
  if (!value.is_array() || value.empty())
    refuse_value();
  if (value.front().is_number())
    return {read_ids(value, "prompt")};
  std::vector<batch_prompt> prompts;
  for (const json& one : value) {
    if (one.is_string())
      prompts.emplace_back(one.get<std::string>());
    else if (one.is_array())
      prompts.emplace_back(read_ids(one, "prompt"));
    else
      refuse_value();
  }
  return prompts;
}

void require_few_replies(const batch_request& r) {
  if (r.options.outputs > max_batch_replies / r.prompts.size())
    refuse(fmt::format("{} prompts with \"n\": {} are more replies than the {} that a line may ask for; use several "
                       "lines",
                       r.prompts.size(), r.options.outputs, max_batch_replies));
}

void read_special(const json& from, batch_request& r) {
  if (find(from, "special")) {
    bool special = false;
    read(from, "special", special);
    r.special = special;
  }
}

void read_plain(const json& from, batch_request& r) {
  const json* prompt = find(from, "prompt");
  const json* messages = find(from, "messages");
  if (prompt && messages)
    refuse("there are both \"prompt\" and \"messages\": leave one out");
  if (!prompt && !messages)
    refuse("there is neither \"prompt\" nor \"messages\"");
  if (prompt)
    r.prompts = read_raw(*prompt);
  else
    r.prompts = {read_messages(*messages)};
  read_options(from, r.options);
  read_special(from, r);
  read(from, "logprobs", r.options.logprobs);
  r.shown_logprobs = r.options.logprobs;
}

/// Refuses options that would change the reply and are not supported: they must not be passed over in silence.
void refuse_what_is_not_done(const json& body) {
  for (const char* key : {"tools", "functions", "suffix", "stream", "echo", "audio"})
    if (const json* value = find(body, key);
        value && *value != false && *value != json(std::string()) && !value->empty())
      refuse(fmt::format("\"{}\" is not supported", key));
  if (const json* format = find(body, "response_format"); format && *format != json{{"type", "text"}})
    refuse("\"response_format\" other than text is not supported");
}

void read_chat_logprobs(const json& body, batch_request& r) {
  bool wanted = false;
  read(body, "logprobs", wanted);
  read(body, "top_logprobs", r.shown_logprobs);
  if (r.shown_logprobs > 0 && !wanted)
    refuse("\"top_logprobs\" needs \"logprobs\": true");
  r.options.logprobs = wanted ? std::max<std::size_t>(r.shown_logprobs, 1) : 0;
}

void read_openai(const json& from, batch_request& r) {
  const json* url = find(from, "url");
  if (url && *url == "/v1/completions")
    r.format = batch_format::openai_completions; // also for the form of a failure
  if (r.id == "null")
    refuse("there is no \"custom_id\"");
  if (const json* method = find(from, "method"); method && *method != "POST")
    refuse(fmt::format("\"method\" must be \"POST\", not {}", shown(*method)));
  if (!url || (*url != "/v1/chat/completions" && *url != "/v1/completions"))
    refuse(fmt::format("\"url\" must be \"/v1/chat/completions\" or \"/v1/completions\", not {}",
                       url ? shown(*url) : "absent"));
  const json* body = find(from, "body");
  if (!body || !body->is_object())
    refuse("\"body\" must be an object with the request");
  refuse_what_is_not_done(*body);
  const bool chat = r.format == batch_format::openai_chat;
  const char* key = chat ? "messages" : "prompt";
  const json* prompt = find(*body, key);
  if (!prompt)
    refuse(fmt::format("the body has no \"{}\"", key));
  if (chat)
    r.prompts = {read_messages(*prompt)};
  else
    r.prompts = read_raw(*prompt);
  read_options(*body, r.options);
  r.special = !chat;
  read_special(*body, r);
  read(*body, "max_completion_tokens", r.options.max_tokens, 1);
  if (chat) {
    read_chat_logprobs(*body, r);
  } else {
    read(*body, "logprobs", r.options.logprobs);
    r.shown_logprobs = r.options.logprobs;
  }
}

void read_id(const json& from, const char* key, std::string& to) {
  if (const json* id = find(from, key)) {
    if (!id->is_string() && !id->is_number_integer())
      refuse(fmt::format("\"{}\" must be a text or a whole number, not {}", key, shown(*id)));
    to = id->dump();
  }
}

json parse_bounded(const std::string& text, std::size_t max_values) {
  constexpr std::size_t of_structure = 8; // what its own memory is, in values
  std::size_t values = 0;
  return json::parse(text, [&](int, json::parse_event_t event, const json&) {
    if (event == json::parse_event_t::array_start || event == json::parse_event_t::object_start)
      values += of_structure;
    else if (event == json::parse_event_t::value)
      ++values;
    if (values > max_values)
      refuse(
          fmt::format("the line has more than {} values, where a list counts as {}; give long prompts lines of their "
                      "own",
                      max_values, of_structure));
    return true;
  });
}

bool is_openai(const json& from) {
  return from.contains("custom_id") || from.contains("url") || from.contains("body");
}

} // namespace

batch_request parse_batch_request(const input_line& line, const generation_options& defaults, std::size_t max_values) {
  batch_request r;
  r.line = line.number;
  r.fingerprint = line.fingerprint();
  r.bytes = line.bytes;
  r.options = defaults;
  try {
    if (line.too_long)
      refuse(fmt::format("the line has {} bytes, more than the {} that are read of one", line.bytes, line.text.size()));
    const json from = parse_bounded(line.text, max_values);
    if (!from.is_object())
      refuse(fmt::format("the line must be an object, not {}", shown(from)));
    const bool openai = is_openai(from);
    r.format = openai ? batch_format::openai_chat : batch_format::plain;
    read_id(from, openai ? "custom_id" : "id", r.id);
    if (openai)
      read_openai(from, r);
    else
      read_plain(from, r);
    require_few_replies(r);
  } catch (const json::parse_error& e) {
    r.failure = fmt::format("the line is not JSON: byte {} is wrong or missing, or not UTF-8", e.byte);
  } catch (const json::exception&) {
    r.failure = "the line has a number beyond what can be represented";
  } catch (const error& e) {
    r.failure = e.what();
  }
  return r;
}

} // namespace tropilla
