// Choosing tokens from logits.
#include "src/sampling/draw.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

using namespace tropilla;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float inf = std::numeric_limits<float>::infinity();

sampling_options warm(double temperature, std::uint64_t seed = 1) {
  sampling_options o;
  o.temperature = temperature;
  o.seed = seed;
  return o;
}

} // namespace

TEST_CASE("greedy drawing takes the largest logit, the lower id of equals, and never NaN") {
  token_drawer d;
  CHECK(d.draw(std::vector<float>{1, 5, 3, 5, 2}, {}, 0) == 1);
  CHECK(d.draw(std::vector<float>{not_a_number, -4, not_a_number, -3, not_a_number}, {}, 0) == 3);
  CHECK(d.draw(std::vector<float>{-7}, {}, 0) == 0);
  CHECK(d.draw(std::vector<float>{0, 0, 0, 0, 0, 0, 9}, {}, 0) == 6);
}

TEST_CASE("when no logit is a number there is no token") {
  token_drawer d;
  CHECK(d.draw(std::vector<float>{not_a_number, not_a_number, not_a_number}, {}, 0) == -1);
  CHECK(d.draw(std::vector<float>{not_a_number, not_a_number, not_a_number, not_a_number, not_a_number}, warm(1), 0) ==
        -1);
  CHECK(d.draw(std::vector<float>{}, {}, 0) == -1);
}

TEST_CASE("draws follow the softmax of the logits") {
  const std::vector<float> logits{0.0F, 1.0F, 2.0F, -inf, 0.5F};
  const double temperature = 0.8;
  double sum = 0;
  for (const float l : logits)
    sum += std::exp(static_cast<double>(l) / temperature);
  token_drawer d;
  std::map<token_id, int> counts;
  constexpr int draws = 40000;
  for (int i = 0; i < draws; ++i)
    ++counts[d.draw(logits, warm(temperature, 99), static_cast<std::uint64_t>(i))];
  for (token_id id = 0; id < 5; ++id) {
    const double expected =
        draws * std::exp(static_cast<double>(logits[static_cast<std::size_t>(id)]) / temperature) / sum;
    CHECK(std::abs(counts[id] - expected) < 5 * std::sqrt(expected + 1)); // five standard deviations
  }
}

TEST_CASE("top-k and top-p keep only the most probable") {
  const std::vector<float> logits{3, 1, 2, 0};
  token_drawer d;
  auto k = warm(5);
  k.top_k = 2;
  auto p = warm(1);
  p.top_p = 0.7; // 0.64 of the mass alone is too little, with the second it is 0.88
  for (std::uint64_t i = 0; i < 500; ++i) {
    const auto a = d.draw(logits, k, i);
    const auto b = d.draw(logits, p, i);
    CHECK((a == 0 || a == 2));
    CHECK((b == 0 || b == 2));
  }
  p.top_p = 1e-9;
  CHECK(d.draw(logits, p, 3) == 0);
}

TEST_CASE("the top-k logits draw what all of them do") {
  std::vector<float> logits(300);
  std::uint64_t bits = 1;
  for (auto& x : logits) // of few different ones
    x = static_cast<float>((bits = bits * 6364136223846793005U + 1442695040888963407U) >> 60);
  generation_options some;
  some.sampling = warm(0.9);
  some.sampling.top_k = 12;
  some.sampling.top_p = 0.9;
  some.sampling.typical_p = 0.8;
  some.sampling.min_p = 0.01;
  for (const auto& o : {generation_options{}, some}) {
    const std::size_t k = sufficient_top_k(o);
    CHECK(k == (o.sampling.temperature == 0 ? 1 : 12));
    std::vector<token_id> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto logit = [&](token_id id) { return logits[static_cast<std::size_t>(id)]; };
    std::stable_sort(order.begin(), order.end(), [&](token_id a, token_id b) { return logit(a) > logit(b); });
    order.resize(k);
    std::sort(order.begin(), order.end());
    std::vector<float> top_k_logits;
    for (const auto id : order)
      top_k_logits.push_back(logit(id));
    token_drawer d;
    for (std::uint64_t i = 0; i < 200; ++i)
      CHECK(order[static_cast<std::size_t>(d.draw(top_k_logits, o.sampling, i))] == d.draw(logits, o.sampling, i));
  }
  const auto needs_all = [&](auto change) {
    auto o = some;
    change(o);
    return sufficient_top_k(o) == 0;
  };
  CHECK(needs_all([](auto& o) { o.sampling.top_k = 0; }));
  CHECK(needs_all([](auto& o) { o.sampling.bias = {{3, 1.0F}}; }));
  CHECK(needs_all([](auto& o) { o.sampling.banned = {3}; }));
  CHECK(needs_all([](auto& o) { o.sampling.repetition_penalty = 1.1; }));
  CHECK(needs_all([](auto& o) { o.sampling.frequency_penalty = 0.1; }));
  CHECK(needs_all([](auto& o) { o.sampling.presence_penalty = 0.1; }));
  CHECK(needs_all([](auto& o) { o.logprobs = 1; }));
}

TEST_CASE("the same seed and index draw the same, other seeds differ") {
  const std::vector<float> logits(1000, 0.0F);
  token_drawer a, b;
  int same = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto x = a.draw(logits, warm(1, 5), i);
    CHECK(x == b.draw(logits, warm(1, 5), i));
    same += x == a.draw(logits, warm(1, 6), i);
  }
  CHECK(same < 10);
}
