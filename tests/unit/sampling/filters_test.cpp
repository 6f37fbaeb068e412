// Every method beside a plain reference: all probabilities in float64, sorted, filtered one after another.
#include "src/sampling/draw.hpp"
#include "src/sampling/logprobs.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

using namespace tropilla;

namespace {

struct entry {
  token_id id;
  double logit;
  double p;
};

/// The distribution that options leave, by id.
std::map<token_id, double> reference(std::vector<float> logits, const sampling_options& o,
                                     const std::vector<token_id>& prompt, const std::vector<token_id>& reply) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const auto& b : o.bias)
    x[static_cast<std::size_t>(b.token)] = static_cast<double>(logits[static_cast<std::size_t>(b.token)] + b.bias);
  for (const auto id : o.banned)
    x[static_cast<std::size_t>(id)] = -INFINITY;
  std::vector<std::pair<token_id, bool>> seen;
  for (const auto t : prompt)
    seen.emplace_back(t, false);
  for (const auto t : reply)
    seen.emplace_back(t, true);
  if (o.penalty_window > 0 && seen.size() > o.penalty_window)
    seen.erase(seen.begin(), seen.end() - static_cast<std::ptrdiff_t>(o.penalty_window));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto mine = [&](const auto& s) { return s.first == static_cast<token_id>(i); };
    const auto all = std::ranges::count_if(seen, mine);
    const auto replied = std::ranges::count_if(seen, [&](const auto& s) { return mine(s) && s.second; });
    if (all > 0)
      x[i] = x[i] > 0 ? x[i] / o.repetition_penalty : x[i] * o.repetition_penalty;
    if (replied > 0)
      x[i] -= o.presence_penalty + o.frequency_penalty * static_cast<double>(replied);
  }
  std::vector<entry> all;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i] > -INFINITY)
      all.push_back({static_cast<token_id>(i), x[i], 0});
  std::ranges::stable_sort(all, [](const entry& a, const entry& b) { return a.logit > b.logit; });
  if (o.top_k > 0 && o.top_k < all.size())
    all.resize(o.top_k);
  const auto normalise = [&] {
    double sum = 0;
    for (auto& e : all)
      sum += e.p;
    for (auto& e : all)
      e.p /= sum;
  };
  for (auto& e : all)
    e.p = std::exp((e.logit - all.front().logit) / o.temperature);
  normalise();
  if (o.typical_p < 1) {
    double entropy = 0;
    for (const auto& e : all)
      entropy -= e.p > 0 ? e.p * std::log(e.p) : 0;
    std::ranges::stable_sort(all, [&](const entry& a, const entry& b) {
      return std::abs(-std::log(a.p) - entropy) < std::abs(-std::log(b.p) - entropy);
    });
    double sum = 0;
    std::size_t n = 0;
    while (n < all.size() && (n == 0 || sum < o.typical_p))
      sum += all[n++].p;
    all.resize(n);
    std::ranges::stable_sort(all, [](const entry& a, const entry& b) { return a.logit > b.logit; });
    normalise();
  }
  double sum = 0;
  std::size_t n = 0;
  while (n < all.size() && (n == 0 || sum < o.top_p))
    sum += all[n++].p;
  all.resize(n);
  std::erase_if(all, [&, most = all.front().p](const entry& e) { return e.p < o.min_p * most; });
  normalise();
  std::map<token_id, double> out;
  for (const auto& e : all)
    out[e.id] = e.p;
  return out;
}

struct one_case {
  std::vector<float> logits;
  std::vector<token_id> prompt, reply;
  sampling_options options;
};

one_case random_case(std::mt19937& random) {
  one_case c;
  std::normal_distribution<float> normal(0, 2);
  const std::size_t n = 1 + random() % 30;
  for (std::size_t i = 0; i < n; ++i)
    c.logits.push_back(random() % 8 == 0 ? std::round(normal(random)) : normal(random));
  if (n > 2 && random() % 4 == 0)
    c.logits[random() % n] = random() % 2 ? NAN : -INFINITY;
  for (std::size_t i = random() % 20; i > 0; --i)
    c.prompt.push_back(static_cast<token_id>(random() % n));
  for (std::size_t i = random() % 20; i > 0; --i)
    c.reply.push_back(static_cast<token_id>(random() % n));
  auto& o = c.options;
  const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(random); };
  const auto sometimes = [&] { return random() % 3 == 0; };
  o.temperature = uniform(0.3, 2);
  if (sometimes())
    o.top_k = 1 + random() % n;
  if (sometimes())
    o.top_p = uniform(0.1, 1);
  if (sometimes())
    o.min_p = uniform(0, 0.5);
  if (sometimes())
    o.typical_p = uniform(0.1, 1);
  if (sometimes())
    o.repetition_penalty = uniform(0.7, 1.6);
  if (sometimes())
    o.frequency_penalty = uniform(-0.5, 1);
  if (sometimes())
    o.presence_penalty = uniform(-0.5, 1);
  if (sometimes())
    o.penalty_window = 1 + random() % 25;
  if (sometimes() && n > 1)
    o.banned = {static_cast<token_id>(random() % n)};
  if (sometimes())
    o.bias = {{static_cast<token_id>(random() % n), static_cast<float>(uniform(-3, 3))}};
  return c;
}

token_history history_of(const one_case& c) {
  token_history h(c.options.penalty_window, c.prompt);
  for (const auto t : c.reply)
    h.push(t);
  return h;
}

} // namespace

TEST_CASE("what is drawn is what the options leave, with its probability") {
  std::mt19937 random(5);
  token_drawer drawer;
  double worst = 0;
  for (int round = 0; round < 400; ++round) {
    const auto c = random_case(random);
    const auto want = reference(c.logits, c.options, c.prompt, c.reply);
    const auto history = history_of(c);
    constexpr int draws = 2000;
    std::map<token_id, int> counts;
    for (std::uint64_t i = 0; i < draws; ++i)
      ++counts[drawer.draw(c.logits, c.options, i, history)];
    INFO("round " << round);
    for (const auto& [id, n] : counts)
      CHECK(want.count(id) == 1);
    // Pearson's chi-square over what is expected at least five times, the rest as one class.
    double chi = 0, rest_expected = 0;
    int classes = 0, rest = 0;
    for (const auto& [id, p] : want) {
      const double expected = p * draws;
      if (expected < 5) {
        rest_expected += expected;
        rest += counts[id];
        continue;
      }
      chi += (counts[id] - expected) * (counts[id] - expected) / expected;
      ++classes;
    }
    if (rest_expected >= 5) {
      chi += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
      ++classes;
    }
    if (classes < 2)
      continue;
    // Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal.
    const double k = classes - 1;
    const double z = (std::cbrt(chi / k) - (1 - 2 / (9 * k))) / std::sqrt(2 / (9 * k));
    worst = std::max(worst, z);
  }
  CHECK(worst < 4.5); // of 400: one in 700 by chance, and the draws are always the same
  CHECK(worst > 1);
}

TEST_CASE("greedy takes the greatest of the modified logits") {
  std::mt19937 random(6);
  token_drawer drawer;
  for (int round = 0; round < 500; ++round) {
    auto c = random_case(random);
    c.options.temperature = 1e-3; // the reference's way to be greedy
    c.options.typical_p = 1;
    const auto want = reference(c.logits, c.options, c.prompt, c.reply);
    c.options.temperature = 0;
    CHECK(want.count(drawer.draw(c.logits, c.options, 0, history_of(c))) == 1);
  }
}

TEST_CASE("a vocabulary of 128,256 tokens draws as a small one with the same likely tokens") {
  std::vector<float> logits(128256, -60.0F);
  const std::vector<float> few{3, 2.5, 2.5, 1, -1};
  for (std::size_t i = 0; i < few.size(); ++i)
    logits[i * 20000 + 7] = few[i];
  sampling_options o;
  o.temperature = 0.9;
  o.min_p = 0.01;
  o.frequency_penalty = 0.3;
  const std::vector<token_id> large_reply{7, 7, 40007}, small_reply{0, 0, 2};
  token_history large({}, {}), small({}, {});
  for (const auto t : large_reply)
    large.push(t);
  for (const auto t : small_reply)
    small.push(t);
  token_drawer drawer;
  for (std::uint64_t i = 0; i < 300; ++i)
    CHECK(drawer.draw(logits, o, i, large) == drawer.draw(few, o, i, small) * 20000 + 7);
}

TEST_CASE("log-probabilities are those of the untouched logits, the most probable first") {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const auto c = random_case(random);
    sampling_options plain;
    plain.temperature = 1;
    const auto p = reference(c.logits, plain, {}, {});
    const auto drawn = p.begin()->first;
    const std::size_t n = random() % 8;
    std::vector<token_logprob> out;
    token_logprobs(c.logits, drawn, n, out);
    REQUIRE(out.size() == 1 + std::min(n, p.size()));
    for (const auto& l : out)
      CHECK(std::exp(static_cast<double>(l.logprob)) == Approx(p.at(l.id)).epsilon(1e-5));
    CHECK(out.front().id == drawn);
    for (std::size_t i = 2; i < out.size(); ++i)
      CHECK(out[i - 1].logprob >= out[i].logprob);
    if (n > 0)
      CHECK(p.at(out[1].id) == std::ranges::max_element(p, {}, [](const auto& e) { return e.second; })->second);
  }
}
