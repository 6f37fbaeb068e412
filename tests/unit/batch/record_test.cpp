// Results of a batch as lines.
#include "src/batch/record.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace tropilla;
using nlohmann::json;

namespace {

json record_of(std::size_t outputs) {
  batch_request request;
  request.line = 3;
  request.id = "\"a\"";
  std::vector<batch_output> all;
  for (std::size_t i = 0; i < outputs; ++i)
    all.push_back({"text " + std::to_string(i), {static_cast<token_id>(i)}, {}, finish_reason::length});
  return json::parse(result_record(request, all, {}, {}));
}

} // namespace

TEST_CASE("log-probabilities are those of the token that was drawn, and behind it of the most probable") {
  batch_request request;
  request.options.logprobs = request.shown_logprobs = 2;
  batch_output output{"a", {5}, {{{5, -1.5F}, {7, -0.25F}, {5, -1.5F}}, {{9, -2.0F}}}, finish_reason::length};
  const json list = json::parse(result_record(request, std::vector{output}, {}, {})).at("logprobs");
  CHECK(list == json::parse(R"([{"id": 5, "logprob": -1.5,
                                 "top": [{"id": 7, "logprob": -0.25}, {"id": 5, "logprob": -1.5}]},
                                {"id": 9, "logprob": -2.0, "top": []}])"));
}

TEST_CASE("one reply is a text, and several are lists") {
  const json one = record_of(1);
  CHECK(one.at("id") == "a");
  CHECK(one.at("line") == 3);
  CHECK(one.at("text") == "text 0");
  CHECK(one.at("ids") == json{0});
  CHECK(one.at("finish_reason") == "length");
  CHECK_FALSE(one.contains("texts"));
  CHECK_FALSE(one.contains("logprobs"));

  const json two = record_of(2);
  CHECK(two.at("texts") == json{"text 0", "text 1"});
  CHECK(two.at("ids") == json{json{0}, json{1}});
  CHECK(two.at("finish_reasons") == json{"length", "length"});
  for (const char* key : {"text", "finish_reason", "idss", "logprobs"})
    CHECK_FALSE(two.contains(key));
}
