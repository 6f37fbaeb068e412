// Modifies logits, then chooses the next token greedily or at random.
#include "src/sampling/draw.hpp"

#include <algorithm>
#include <cmath>

namespace tropilla {
namespace {

/// The largest of a block. Many independent maxima, so that the compiler's vectors don't wait for each other.
float largest(std::span<const float> block) {
  constexpr std::size_t width = 32;
  float best[width];
  std::fill_n(best, width, -INFINITY);
  std::size_t i = 0;
  for (; i + width <= block.size(); i += width)
    for (std::size_t k = 0; k < width; ++k)
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
    const auto values = logits.subspan(begin, std::min(block, logits.size() - begin));
    if (const float maximum = largest(values); maximum > top) {
      top = maximum;
      best = begin + static_cast<std::size_t>(std::find(values.begin(), values.end(), maximum) - values.begin());
    }
  }
  return top == -INFINITY ? -1 : static_cast<token_id>(best);
}

} // namespace

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

std::size_t sufficient_top_k(const generation_options& options) noexcept {
  const auto& s = options.sampling;
  const bool as_they_are = s.bias.empty() && s.banned.empty() && s.repetition_penalty == 1 &&
                           s.frequency_penalty == 0 && s.presence_penalty == 0;
  if (!as_they_are || options.logprobs > 0)
    return 0;
  return s.temperature == 0 ? 1 : s.top_k;
}

/// The logits with bias, bans and penalties, in a copy where there are any.
std::span<const float> token_drawer::modified(std::span<const float> logits, const sampling_options& options,
                                              const token_history& history) {
  const bool penalised = counts_tokens(options);
  if (options.bias.empty() && options.banned.empty() && !penalised)
    return logits;
  modified_.assign(logits.begin(), logits.end());
  for (const auto& b : options.bias)
    modified_[static_cast<std::size_t>(b.token)] += b.bias;
  for (const auto id : options.banned)
    modified_[static_cast<std::size_t>(id)] = -INFINITY;
  if (!penalised)
    return modified_;
  for (const auto& [id, count] : history.tokens()) {
    auto x = static_cast<double>(modified_[static_cast<std::size_t>(id)]);
    x = x > 0 ? x / options.repetition_penalty : x * options.repetition_penalty;
    if (count.reply > 0)
      x -= options.presence_penalty + options.frequency_penalty * count.reply;
    modified_[static_cast<std::size_t>(id)] = static_cast<float>(x);
  }
  return modified_;
}

void token_drawer::sort_and_truncate(std::size_t count) {
  const auto more_probable = [](const candidate& a, const candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (count > 0 && count < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count), candidates_.end(),
                     more_probable);
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end(), more_probable);
}

void token_drawer::keep_typical(double share) {
  double sum = 0, entropy = 0;
  for (const auto& c : candidates_)
    sum += c.weight;
  for (const auto& c : candidates_)
    entropy -= c.weight > 0 ? c.weight / sum * std::log(c.weight / sum) : 0;
  const auto distance = [&](const candidate& c) { return std::abs(-std::log(c.weight / sum) - entropy); };
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [&](const candidate& a, const candidate& b) { return distance(a) < distance(b); });
  double kept = 0;
  std::size_t count = 0;
  while (count < candidates_.size() && (count == 0 || kept < share * sum))
    kept += candidates_[count++].weight;
  candidates_.resize(count);
  sort_and_truncate(0);
}

token_id token_drawer::draw(std::span<const float> given, const sampling_options& options, std::uint64_t index,
                            const token_history& history) {
  const auto logits = modified(given, options, history);
  const token_id best = arg_max(logits);
  if (best < 0 || options.temperature == 0 || options.top_k == 1)
    return best;

  // A logit more than this below the maximum has a probability under e^-20 of it: not worth an exponential.
  const float top = logits[static_cast<std::size_t>(best)];
  const float floor = top - static_cast<float>(20.0 * options.temperature);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= floor)
      candidates_.push_back({logits[i], static_cast<token_id>(i), 0});
  sort_and_truncate(options.top_k);
  for (auto& c : candidates_)
    c.weight = std::exp((static_cast<double>(c.logit) - static_cast<double>(top)) / options.temperature);
  if (options.typical_p < 1)
    keep_typical(options.typical_p);

  double sum = 0;
  for (const auto& c : candidates_)
    sum += c.weight;
  double kept = 0;
  std::size_t count = 0;
  while (count < candidates_.size() && (count == 0 || kept < options.top_p * sum))
    kept += candidates_[count++].weight;
  while (count > 1 && candidates_[count - 1].weight < options.min_p * candidates_.front().weight)
    kept -= candidates_[--count].weight;

  double left = uniform_draw(options.seed, index) * kept;
  for (std::size_t i = 0; i < count; ++i)
    if ((left -= candidates_[i].weight) < 0)
      return candidates_[i].id;
  return candidates_[count - 1].id;
}

} // namespace tropilla
