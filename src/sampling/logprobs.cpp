// Computes log softmax(x)[i] = x[i] - log(sum of exp(x)).
#include "src/sampling/logprobs.hpp"

#include <algorithm>
#include <cmath>

namespace tropilla {

void token_logprobs(std::span<const float> logits, token_id drawn, std::size_t n, std::vector<token_logprob>& out) {
  float top = -INFINITY;
  for (const float x : logits)
    top = x > top ? x : top; // false for NaN
  double sum = 0;
  for (const float x : logits)
    if (x > -INFINITY)
      sum += std::exp(static_cast<double>(x) - static_cast<double>(top));
  const double log_sum = static_cast<double>(top) + std::log(sum);
  const auto of = [&](token_id id) {
    return token_logprob{id, static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(id)]) - log_sum)};
  };

  std::vector<token_id> best; // the n most probable so far, most probable first
  const auto more_probable = [&](token_id a, token_id b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<token_id>(i);
    if (!(logits[i] > -INFINITY) || (best.size() == n && (n == 0 || !more_probable(id, best.back()))))
      continue;
    best.insert(std::ranges::upper_bound(best, id, more_probable), id);
    if (best.size() > n)
      best.pop_back();
  }
  out.clear();
  out.push_back(of(drawn));
  for (const auto id : best)
    out.push_back(of(id));
}

} // namespace tropilla
