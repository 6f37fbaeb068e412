// Checks and orders requests.
#include "src/schedule/sequence.hpp"

#include "src/sampling/check.hpp"

#include <cmath>
#include <fmt/format.h>
#include <tuple>

namespace tropilla {
namespace {

constexpr double longest_wait = 1e9; // seconds: what a clock can count

/// The first output draws as a request of its own would; the others from seeds that lie far apart.
std::uint64_t seed_of(std::uint64_t seed, std::size_t output_index) {
  return seed + output_index * 0xD1B54A32D192ED03ULL;
}

void check_seconds(double seconds, std::string_view what) {
  if (!(seconds >= 0 && seconds <= longest_wait))
    throw error(errc::invalid_argument,
                fmt::format("{} must be 0 (none) to {:.0f} seconds, not {}", what, longest_wait, seconds));
}

} // namespace

std::string_view to_string(finish_reason reason) noexcept {
  switch (reason) {
  case finish_reason::stop:
    return "stop";
  case finish_reason::length:
    return "length";
  case finish_reason::context:
    return "context";
  case finish_reason::cancelled:
    return "cancelled";
  }
  return "stop";
}

void check_request(const sequence_request& request, const request_limits& limits) {
  const auto& o = request.options;
  const auto [vocabulary, context, trained_context] = limits;
  if (request.prompt.empty())
    throw error(errc::invalid_argument, "the prompt is empty; give at least one token");
  for (const token_id id : request.prompt)
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary)
      throw error(errc::invalid_argument,
                  fmt::format("token id {} is not in the vocabulary of {} tokens", id, vocabulary));
  const std::size_t room = request.score ? context : context - 1; // a reply needs a place for its first token
  const std::size_t needed = request.prompt.size() + (context - room);
  if (needed > trained_context && needed > context)
    throw error(errc::context_full,
                fmt::format("the prompt has {} tokens, more than the {} that the model takes at most; shorten it",
                            request.prompt.size(), trained_context - (context - room)));
  if (needed > context)
    throw error(errc::context_full,
                fmt::format("the prompt has {} tokens and the context holds {}; shorten it or open the model with a "
                            "context of at least {}",
                            request.prompt.size(), context, needed),
                remedy::context);
  check_generation(o, vocabulary);
  if (o.outputs < 1 || o.outputs > max_outputs)
    throw error(errc::invalid_argument, fmt::format("a request has 1 to {} outputs, not {}", max_outputs, o.outputs));
  check_seconds(o.timeout_seconds, "the timeout");
  check_seconds(o.deadline_seconds, "the deadline");
  if (o.context_shift && o.context_keep >= context / 2)
    throw error(errc::invalid_argument,
                fmt::format("a context of {} tokens that shifts can keep at most {} of them, not {}", context,
                            context / 2 - 1, o.context_keep));
}

sequence::sequence(std::shared_ptr<shared_request> of, std::size_t index)
    : shared(std::move(of)), output_index(index), sampling(shared->request.options.sampling),
      tokens(shared->request.prompt),
      history(sampling.penalty_window,
              counts_tokens(sampling) ? std::span<const token_id>(tokens) : std::span<const token_id>{}),
      stop(shared->request.options.stop) {
  sampling.seed = seed_of(sampling.seed, output_index);
}

bool goes_before(const sequence& a, const sequence& b) noexcept {
  const auto key = [](const sequence& s) {
    return std::tuple(-s.shared->request.options.priority, s.shared->deadline, s.shared->order, s.output_index);
  };
  return key(a) < key(b);
}

} // namespace tropilla
