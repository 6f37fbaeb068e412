// The real model against a float32 run of the same file (tests/oracles/reference.py made the data).
#include "tropilla/tropilla.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unistd.h>

using namespace tropilla;
using nlohmann::json;

namespace {

runtime_config real_model(bool precise) {
  const char* path = std::getenv("TROPILLA_TEST_MODEL");
  if (!path)
    FAIL("set TROPILLA_TEST_MODEL to what scripts/model.sh prints");
  runtime_config c;
  c.model = path;
  c.context = 1024;
  c.precise = precise;
  c.logit_rows = 64;
  return c;
}

json read_json(const char* name) {
  return json::parse(std::ifstream(std::filesystem::path(TROPILLA_TEST_DATA) / name));
}

double log_sum_exp(std::span<const float> logits) {
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float l : logits)
    sum += std::exp(static_cast<double>(l) - top);
  return top + std::log(sum);
}

struct agreement {
  double perplexity = 0;
  double top1 = 0; ///< fraction of positions whose arg-max is the reference's
};

/// As the reference: windows of 512 without BOS, positions 1 to 511 of each scored.
agreement evaluate(bool precise) {
  runtime rt(real_model(precise));
  const auto reference = read_json("eval-reference.json");
  const auto ids = reference.at("ids").get<std::vector<token_id>>();
  const auto expected = reference.at("top1").get<std::vector<token_id>>();
  constexpr std::size_t window = 512;
  double sum = 0;
  std::size_t scored = 0, same = 0;
  for (std::size_t at = 0; at + window <= ids.size(); at += window)
    rt.score(std::span(ids).subspan(at, window), [&](std::size_t i, std::span<const float> logits) {
      same += std::max_element(logits.begin(), logits.end()) - logits.begin() == expected[at + i];
      if (i + 1 == window)
        return;
      sum += log_sum_exp(logits) - static_cast<double>(logits[static_cast<std::size_t>(ids[at + i + 1])]);
      ++scored;
    });
  REQUIRE(scored == reference.at("scored").get<std::size_t>());
  return {std::exp(sum / static_cast<double>(scored)), static_cast<double>(same) / static_cast<double>(ids.size())};
}

} // namespace

TEST_CASE("the tokenizer gives the reference's ids for the evaluation text") {
  runtime rt(real_model(false));
  std::stringstream text;
  text << std::ifstream(std::filesystem::path(TROPILLA_TEST_DATA) / "eval-text.txt").rdbuf();
  auto ids = rt.tokenize(text.str());
  const auto expected = read_json("eval-reference.json").at("ids").get<std::vector<token_id>>();
  REQUIRE(ids.size() >= expected.size());
  ids.resize(expected.size()); // the reference kept whole windows
  CHECK(ids == expected);
}

TEST_CASE("with float32 activations perplexity is within 0.1% and the arg-max equal at 99.5% of positions") {
  const auto a = evaluate(true);
  const auto expected = read_json("eval-reference.json").at("ppl").get<double>();
  INFO("perplexity " << a.perplexity << ", arg-max equal at " << a.top1);
  CHECK(std::abs(a.perplexity / expected - 1) <= 0.001);
  CHECK(a.top1 >= 0.995);
}

TEST_CASE("with quantised activations perplexity is within 0.5% and the arg-max equal at 96% of positions") {
  const auto a = evaluate(false);
  const auto expected = read_json("eval-reference.json").at("ppl").get<double>();
  INFO("perplexity " << a.perplexity << ", arg-max equal at " << a.top1);
  CHECK(std::abs(a.perplexity / expected - 1) <= 0.005);
  CHECK(a.top1 >= 0.96);
}

TEST_CASE("quantising activations costs a mean KL divergence of at most 0.0026") {
  auto precise_config = real_model(true);
  auto config = real_model(false);
  runtime precise(precise_config), quantised(config);
  const auto ids = read_json("eval-reference.json").at("ids").get<std::vector<token_id>>();
  constexpr std::size_t window = 512;
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t at = 0; at + window <= ids.size(); at += window) {
    std::vector<std::vector<float>> p;
    precise.score(std::span(ids).subspan(at, window),
                  [&](std::size_t, std::span<const float> l) { p.emplace_back(l.begin(), l.end()); });
    quantised.score(std::span(ids).subspan(at, window), [&](std::size_t i, std::span<const float> q) {
      const double lp = log_sum_exp(p[i]), lq = log_sum_exp(q);
      for (std::size_t k = 0; k < q.size(); ++k) {
        const double a = static_cast<double>(p[i][k]) - lp;
        sum += std::exp(a) * (a - (static_cast<double>(q[k]) - lq));
      }
      ++count;
    });
  }
  INFO("mean KL divergence " << sum / static_cast<double>(count));
  CHECK(sum / static_cast<double>(count) <= 0.0026);
}

TEST_CASE("the last logits of the reference's prompts agree, and greedy replies do where the margin allows") {
  runtime precise(real_model(true));
  for (const auto& r : read_json("logits-reference.json")) {
    const auto ids = r.at("ids").get<std::vector<token_id>>();
    INFO(r.at("prompt").get<std::string>());
    CHECK(precise.tokenize(r.at("prompt").get<std::string>(), false, true) == ids);
    std::vector<float> last;
    precise.score(ids, [&](std::size_t, std::span<const float> l) { last.assign(l.begin(), l.end()); });
    for (const auto& pair : r.at("last_logits_top20"))
      CHECK(static_cast<double>(last[pair[0].get<std::size_t>()]) == Approx(pair[1].get<double>()).margin(0.03));
    CHECK(log_sum_exp(last) == Approx(r.at("logsumexp").get<double>()).margin(0.02));

    const auto expected = r.at("greedy").get<std::vector<token_id>>();
    const auto margins = r.at("greedy_margin").get<std::vector<double>>();
    generation_options o;
    o.max_tokens = expected.size();
    o.ignore_eos = true;
    std::vector<token_id> got;
    for (const auto& p : precise.generate(ids, o))
      if (p.id >= 0)
        got.push_back(p.id);
    for (std::size_t i = 0; i < expected.size() && margins[i] > 0.05; ++i)
      CHECK(got[i] == expected[i]);
  }
}

TEST_CASE("the first layer computes while later ones are still being read and packed") {
  auto c = real_model(false);
  c.trace = std::filesystem::temp_directory_path() / ("tropilla-overlap-" + std::to_string(::getpid()) + ".json");
  {
    runtime rt(c);
    generation_options o;
    o.max_tokens = 1;
    for (const auto& p : rt.generate("The capital of France is", o))
      (void)p;
  }
  const auto trace = json::parse(std::ifstream(c.trace));
  std::filesystem::remove(c.trace);
  std::map<int, std::string> rows;
  for (const auto& e : trace.at("traceEvents"))
    if (e.at("ph") == "M" && e.at("name") == "thread_name")
      rows[e.at("tid").get<int>()] = e.at("args").at("name").get<std::string>();
  double first_compute_end = 1e18, last_pack_begin = 0;
  for (const auto& e : trace.at("traceEvents")) {
    if (e.at("ph") != "X")
      continue;
    const auto& row = rows.at(e.at("tid").get<int>());
    const double begin = e.at("ts").get<double>();
    if (row == "stream host:0 compute")
      first_compute_end = std::min(first_compute_end, begin + e.at("dur").get<double>());
    else if (row.find(" pack ") != std::string::npos)
      last_pack_begin = std::max(last_pack_begin, begin);
  }
  CHECK(first_compute_end < last_pack_begin);
}
