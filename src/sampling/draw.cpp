// Greedy and random choice of the next token.
#include "src/sampling/draw.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tropilla {
namespace {

/// The largest of a block. Many independent maxima, so that the compiler's vectors don't wait for each other.
float largest(std::span<const float> block) {
  constexpr std::size_t lanes = 32;
  float best[lanes];
  std::fill_n(best, lanes, -INFINITY);
  std::size_t i = 0;
  for (; i + lanes <= block.size(); i += lanes)
    for (std::size_t k = 0; k < lanes; ++k)
      best[k] = block[i + k] > best[k] ? block[i + k] : best[k]; // false for NaN
  float top = -INFINITY;
  for (const float x : best)
    top = std::max(top, x);
  for (; i < block.size(); ++i)
    top = block[i] > top ? block[i] : top;
  return top;
}

/// The first position of the largest, or -1 when nothing is above minus infinity.
token_id arg_max(std::span<const float> logits) {
  constexpr std::size_t block = 1024; // its values are still in the first-level cache when the position is looked for
  float top = -INFINITY;
  std::size_t best = 0;
  for (std::size_t begin = 0; begin < logits.size(); begin += block) {
    const auto part = logits.subspan(begin, std::min(block, logits.size() - begin));
    if (const float most = largest(part); most > top) {
      top = most;
      best = begin + static_cast<std::size_t>(std::find(part.begin(), part.end(), most) - part.begin());
    }
  }
  return top == -INFINITY ? -1 : static_cast<token_id>(best);
}

} // namespace

void check_sampling(const sampling_options& options) {
  if (!(options.temperature >= 0) || std::isinf(options.temperature))
    throw error(errc::invalid_argument,
                fmt::format("the temperature must be 0 (greedy) or a positive number, not {}", options.temperature));
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw error(errc::invalid_argument, fmt::format("top-p must be above 0 and at most 1, not {}", options.top_p));
}

double uniform_draw(std::uint64_t seed, std::uint64_t index) noexcept {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  for (int round = 0; round < 2; ++round) { // twice: neighbouring seeds must not give neighbouring sequences
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    z += 0x9E3779B97F4A7C15ULL;
  }
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

token_id token_drawer::draw(std::span<const float> logits, const sampling_options& options, std::uint64_t index) {
  const token_id best = arg_max(logits);
  if (best < 0 || options.temperature == 0 || options.top_k == 1)
    return best;

  // What lies more than this below the maximum has a probability under e^-20 of it: not worth an exponential.
  const float top = logits[static_cast<std::size_t>(best)];
  const float floor = top - static_cast<float>(20.0 * options.temperature);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= floor)
      candidates_.push_back({logits[i], static_cast<token_id>(i)});

  const auto likelier = [](const candidate& a, const candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options.top_k > 0 && options.top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(options.top_k),
                     candidates_.end(), likelier);
    candidates_.resize(options.top_k);
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);

  const auto weight = [&](const candidate& c) {
    return std::exp((static_cast<double>(c.logit) - static_cast<double>(top)) / options.temperature);
  };
  double sum = 0;
  for (const auto& c : candidates_)
    sum += weight(c);
  double kept = 0;
  std::size_t count = 0;
  while (count < candidates_.size() && (count == 0 || kept < options.top_p * sum))
    kept += weight(candidates_[count++]);

  double left = uniform_draw(options.seed, index) * kept;
  for (std::size_t i = 0; i < count; ++i)
    if ((left -= weight(candidates_[i])) < 0)
      return candidates_[i].id;
  return candidates_[count - 1].id;
}

} // namespace tropilla
