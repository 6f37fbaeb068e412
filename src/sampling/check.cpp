// Checks the ranges of a request's options.
#include "src/sampling/check.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <string_view>

namespace tropilla {
namespace {

constexpr std::size_t max_stop_strings = 64;
constexpr std::size_t longest_stop_string = 1024; // bytes

[[noreturn]] void refuse(const std::string& why) {
  throw error(errc::invalid_argument, why);
}

void check_share(double value, const sampling_limit& limit, std::string_view what) {
  if (!limit.engine.has(value))
    refuse(
        fmt::format("{} must be {} 0 and at most 1, not {}", what, limit.engine.min > 0 ? "above" : "at least", value));
}

void check_finite(double value, const sampling_limit& limit, std::string_view what) {
  if (!limit.engine.has(value))
    refuse(fmt::format("the {} must be a number, not {}", what, value));
}

void check_id(token_id id, std::size_t vocabulary, std::string_view what) {
  if (id < 0 || static_cast<std::size_t>(id) >= vocabulary)
    refuse(fmt::format("{} names token {}, which is not in the vocabulary of {} tokens", what, id, vocabulary));
}

void check_sampling(const sampling_options& s, std::size_t vocabulary) {
  using limits = sampling_limits;
  if (!limits::temperature.engine.has(s.temperature))
    refuse(fmt::format("the temperature must be 0 (greedy) or a positive number, not {}", s.temperature));
  check_share(s.top_p, limits::top_p, "top-p");
  check_share(s.typical_p, limits::typical_p, "typical-p");
  check_share(s.min_p, limits::min_p, "min-p");
  if (!limits::repetition_penalty.engine.has(s.repetition_penalty))
    refuse(fmt::format("the repetition penalty must be a positive number (1: none), not {}", s.repetition_penalty));
  check_finite(s.frequency_penalty, limits::frequency_penalty, "frequency penalty");
  check_finite(s.presence_penalty, limits::presence_penalty, "presence penalty");
  for (const auto& b : s.bias) {
    check_id(b.token, vocabulary, "a logit bias");
    if (std::isnan(b.bias) || b.bias == INFINITY)
      refuse(fmt::format("the bias of token {} must be a number or minus infinity, not {}", b.token, b.bias));
  }
  std::vector<bool> banned(s.banned.empty() ? 0 : vocabulary);
  for (const auto id : s.banned) {
    check_id(id, vocabulary, "the list of banned tokens");
    banned[static_cast<std::size_t>(id)] = true;
  }
  if (!banned.empty() && std::ranges::find(banned, false) == banned.end())
    refuse(fmt::format("all {} tokens are banned; leave at least one", vocabulary));
}

} // namespace

void check_generation(const generation_options& options, std::size_t vocabulary) {
  check_sampling(options.sampling, vocabulary);
  if (options.max_tokens == 0)
    refuse("max_tokens is 0; ask for at least one token");
  for (const auto id : options.stop_tokens)
    check_id(id, vocabulary, "the list of stop tokens");
  if (options.stop.size() > max_stop_strings)
    refuse(fmt::format("{} stop strings are more than the {} that a request can have", options.stop.size(),
                       max_stop_strings));
  for (const auto& s : options.stop) {
    if (s.empty())
      refuse("a stop string is empty; leave it out");
    if (s.size() > longest_stop_string)
      refuse(fmt::format("a stop string has {} bytes, more than {}", s.size(), longest_stop_string));
  }
  if (options.logprobs > max_logprobs)
    refuse(fmt::format("logprobs gives at most the {} most probable tokens, not {}", max_logprobs, options.logprobs));
}

} // namespace tropilla
