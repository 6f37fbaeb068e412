// Lines of a batch as requests.
#include "src/batch/request.hpp"

#include <catch2/catch.hpp>
#include <cmath>

using namespace tropilla;

namespace {

batch_request parse(std::string text, const generation_options& defaults = {}) {
  input_line line{.number = 7, .text = std::move(text)};
  line.bytes = line.text.size() + 1;
  return parse_batch_request(line, defaults);
}

std::string why(std::string text) {
  const auto r = parse(std::move(text));
  return r.failure.value_or("nothing is wrong");
}

} // namespace

TEST_CASE("a line has a prompt and every option") {
  const auto r = parse(R"({"id": "a", "prompt": "Hello", "max_tokens": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9,
    "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.3,
    "penalty_window": 64, "logit_bias": {"3": 1.5, "4": -100}, "banned": [9], "stop_tokens": [8], "stop": ["x", "y"],
    "n": 2, "logprobs": 4, "priority": -1, "timeout": 2.5, "deadline": 1, "seed": 18446744073709551615,
    "ignore_eos": true, "label": "passed over"})");
  REQUIRE_FALSE(r.failure);
  CHECK(r.line == 7);
  CHECK(r.id == "\"a\"");
  CHECK(r.format == batch_format::plain);
  CHECK(std::get<std::string>(r.prompts.at(0)) == "Hello");
  const auto& o = r.options;
  const auto& s = o.sampling;
  CHECK(o.max_tokens == 5);
  CHECK(s.temperature == 0.5);
  CHECK(s.top_k == 3);
  CHECK(s.top_p == 0.9);
  CHECK(s.min_p == 0.1);
  CHECK(s.typical_p == 0.8);
  CHECK(s.repetition_penalty == 1.1);
  CHECK(s.frequency_penalty == 0.2);
  CHECK(s.presence_penalty == 0.3);
  CHECK(s.penalty_window == 64);
  REQUIRE(s.bias.size() == 2);
  CHECK((s.bias[0].token == 3 && s.bias[0].bias == 1.5F));
  CHECK((s.bias[1].token == 4 && std::isinf(s.bias[1].bias)));
  CHECK(s.banned == std::vector<token_id>{9});
  CHECK(o.stop_tokens == std::vector<token_id>{8});
  CHECK(o.stop == std::vector<std::string>{"x", "y"});
  CHECK(o.outputs == 2);
  CHECK(o.logprobs == 4);
  CHECK(o.priority == -1);
  CHECK(o.timeout_seconds == 2.5);
  CHECK(o.deadline_seconds == 1);
  CHECK(s.seed == 18446744073709551615U);
  CHECK(o.ignore_eos);
}

TEST_CASE("what a line leaves out, or has as null, is as the defaults say") {
  generation_options defaults;
  defaults.max_tokens = 33;
  defaults.sampling.seed = 5;
  const auto r = parse(R"({"prompt": "x", "max_tokens": null, "stop": null})", defaults);
  REQUIRE_FALSE(r.failure);
  CHECK(r.id == "null");
  CHECK(r.options.max_tokens == 33);
  CHECK(r.options.sampling.seed == 5);
}

TEST_CASE("a prompt is text, ids or a conversation") {
  CHECK(std::get<std::vector<token_id>>(parse(R"({"id": 3, "prompt": [1, 2]})").prompts.at(0)) ==
        std::vector<token_id>{1, 2});
  const auto r = parse(R"({"messages": [{"role": "system", "content": "S"},
                                        {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]})");
  const auto messages = std::get<std::vector<chat_message>>(r.prompts.at(0));
  REQUIRE(messages.size() == 2);
  CHECK(messages[0].role == "system");
  CHECK(messages[1].content == "ab");
}

TEST_CASE("lines of OpenAI's batches") {
  const auto chat = parse(R"({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {
    "model": "any", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9, "logprobs": true,
    "top_logprobs": 2, "seed": -1, "tools": [], "response_format": {"type": "text"}, "stream": false}})");
  REQUIRE_FALSE(chat.failure);
  CHECK(chat.format == batch_format::openai_chat);
  CHECK(chat.id == "\"r-1\"");
  CHECK(chat.options.max_tokens == 9);
  CHECK(chat.options.logprobs == 2);
  CHECK(chat.options.sampling.seed == static_cast<std::uint64_t>(-1));
  const auto text = parse(R"({"custom_id": "r-2", "url": "/v1/completions", "body": {"prompt": ["hi"], "stop": "x"}})");
  REQUIRE_FALSE(text.failure);
  CHECK(text.format == batch_format::openai_completions);
  CHECK(std::get<std::string>(text.prompts.at(0)) == "hi");
  CHECK(text.options.stop == std::vector<std::string>{"x"});
}

TEST_CASE("a line may have several prompts, texts or ids, within a limit") {
  const auto r = parse(R"({"prompt": ["a", "b", [1, 2]], "n": 2})");
  REQUIRE_FALSE(r.failure);
  REQUIRE(r.prompts.size() == 3);
  CHECK(std::get<std::string>(r.prompts[1]) == "b");
  CHECK(std::get<std::vector<token_id>>(r.prompts[2]) == std::vector<token_id>{1, 2});
  CHECK_THAT(why(R"({"prompt": ["a", 1]})"), Catch::Contains("a list of either"));
  CHECK_THAT(why(R"({"prompt": [1, "a"]})"), Catch::Contains("ids of tokens"));
  const auto many = [](std::size_t prompts, std::size_t n) {
    std::string list;
    for (std::size_t i = 0; i < prompts; ++i)
      list += list.empty() ? "\"x\"" : ", \"x\"";
    return R"({"prompt": [)" + list + R"(], "n": )" + std::to_string(n) + "}";
  };
  CHECK_FALSE(parse(many(128, 1)).failure);
  CHECK_FALSE(parse(many(64, 2)).failure);
  CHECK_THAT(why(many(65, 2)), Catch::Contains("65 prompts with \"n\": 2 are more replies than the 128"));
  CHECK_THAT(why(many(129, 1)), Catch::Contains("128"));
}

TEST_CASE("lines say what clients of OpenAI and vLLM say: developer, top_k -1, top_p 0, special") {
  const auto r = parse(R"({"messages": [{"role": "developer", "content": "S"}], "top_k": -1, "top_p": 0})",
                       {.sampling = {.top_k = 7}});
  REQUIRE_FALSE(r.failure);
  CHECK(std::get<std::vector<chat_message>>(r.prompts.at(0)).front().role == "system");
  CHECK(r.options.sampling.top_k == 0);
  CHECK(r.options.sampling.top_p == 0);
  CHECK_THAT(why(R"({"prompt": "a", "top_k": -2})"), Catch::Contains("\"top_k\" must be"));
  CHECK_FALSE(parse(R"({"prompt": "a"})").special.has_value());
  CHECK(parse(R"({"prompt": "a", "special": true})").special == true);
  CHECK(parse(R"({"prompt": "a", "special": false})").special == false);
  CHECK_THAT(why(R"({"prompt": "a", "special": 1})"), Catch::Contains("\"special\" must be true or false"));
  const auto openai = [](const std::string& url, const std::string& body) {
    return parse(R"({"custom_id": "a", "url": ")" + url + R"(", "body": )" + body + "}");
  };
  CHECK(openai("/v1/completions", R"({"prompt": "a"})").special == true);
  CHECK(openai("/v1/completions", R"({"prompt": "a", "special": false})").special == false);
}

TEST_CASE("what is wrong with a line is said, with the key, and its id kept") {
  using Catch::Contains;
  CHECK_THAT(why("hello"), Contains("not JSON"));
  CHECK_THAT(why(""), Contains("not JSON"));
  CHECK_THAT(why("{\"prompt\": \"\xff\"}"), Contains("not JSON"));
  CHECK_THAT(why(R"({"prompt": "a)"), Contains("not JSON"));
  CHECK_THAT(why(R"({"prompt": "a"} {})"), Contains("not JSON"));
  CHECK_THAT(why(R"(["prompt"])"), Contains("must be an object, not a list"));
  CHECK_THAT(why(R"({"id": 1})"), Contains("neither \"prompt\" nor \"messages\""));
  CHECK_THAT(why(R"({"prompt": "a", "messages": []})"), Contains("both"));
  CHECK_THAT(why(R"({"prompt": 5})"),
             Contains("\"prompt\" must be a text, a list of token ids, or a list of either, not 5"));
  CHECK_THAT(why(R"({"prompt": [1, -1]})"), Contains("ids of tokens, not -1"));
  CHECK_THAT(why(R"({"messages": []})"), Contains("\"messages\""));
  CHECK_THAT(why(R"({"messages": [{"content": "x"}]})"), Contains("\"role\""));
  CHECK_THAT(why(R"({"messages": [{"role": "user"}]})"), Contains("\"content\""));
  CHECK_THAT(why(R"({"messages": [{"role": "user", "content": [{"image_url": 1}]}]})"), Contains("no text"));
  CHECK_THAT(why(R"({"prompt": "a", "max_tokens": -5})"), Contains("\"max_tokens\" must be a whole number from 1"));
  CHECK_THAT(why(R"({"prompt": "a", "max_tokens": "5"})"), Contains("not \"5\""));
  CHECK_THAT(why(R"({"prompt": "a", "max_tokens": 5.5})"), Contains("not 5.5"));
  CHECK_THAT(why(R"({"prompt": "a", "n": 0})"), Contains("\"n\""));
  CHECK_THAT(why(R"({"prompt": "a", "temperature": "hot"})"), Contains("\"temperature\" must be a number"));
  CHECK_THAT(why(R"({"prompt": "a", "temperature": 1e999})"), Contains("number beyond"));
  CHECK_THAT(why(R"({"prompt": "a", "timeout": -1})"), Contains("\"timeout\""));
  CHECK_THAT(why(R"({"prompt": "a", "ignore_eos": 1})"), Contains("true or false"));
  CHECK_THAT(why(R"({"prompt": "a", "stop": [1]})"), Contains("\"stop\""));
  CHECK_THAT(why(R"({"prompt": "a", "logit_bias": {"x": 1}})"), Contains("\"logit_bias\""));
  CHECK_THAT(why(R"({"prompt": "a", "id": [1]})"), Contains("\"id\" must be"));
  CHECK_THAT(why(R"({"custom_id": "a", "url": "/v1/embeddings", "body": {}})"), Contains("/v1/embeddings"));
  CHECK_THAT(why(R"({"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}})"), Contains("POST"));
  CHECK_THAT(why(R"({"custom_id": "a", "url": "/v1/completions"})"), Contains("\"body\""));
  CHECK_THAT(why(R"({"custom_id": "a", "url": "/v1/completions", "body": {}})"), Contains("no \"prompt\""));
  CHECK_THAT(why(R"({"url": "/v1/completions", "body": {"prompt": "x"}})"), Contains("no \"custom_id\""));
  CHECK_THAT(why(R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x", "stream": true}})"),
             Contains("\"stream\" is not supported"));
  CHECK(parse(R"({"id": "kept", "prompt": 5})").id == "\"kept\"");
  const std::string deep = "{\"prompt\": " + std::string(200000, '[') + std::string(200000, ']') + "}";
  CHECK_THAT(why(deep), Contains("ids of tokens"));
}

TEST_CASE("a line that is too long is a failure with its length") {
  const auto r = parse_batch_request({.number = 1, .text = "{\"pro", .bytes = 1000, .too_long = true}, {});
  CHECK_THAT(*r.failure, Catch::Contains("1000 bytes, more than the 5"));
}

TEST_CASE("a line's values are counted before they are kept") {
  const auto parsed = [](const std::string& text, std::size_t max_values) {
    input_line line;
    line.text = text;
    return parse_batch_request(line, {}, max_values).failure.value_or("");
  };
  const std::string ids = R"({"prompt": [1, 2, 3, 4]})"; // an object, a list, four ids
  CHECK_THAT(parsed(ids, 20), !Catch::Contains("values"));
  CHECK_THAT(parsed(ids, 19), Catch::Contains("the line has more than 19 values, where a list counts as 8"));
  const std::string lists = "{\"prompt\": [" + std::string(3000, '[') + std::string(3000, ']') + "]}";
  CHECK_THAT(parsed(lists, 1000), Catch::Contains("more than 1000 values"));
}
