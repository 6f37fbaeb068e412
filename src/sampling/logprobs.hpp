/// Log-probabilities of tokens, for clients that ask.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace tropilla {

/// Fills `out` with `drawn`'s log-probability and then those of the `n` most probable tokens, most probable first
/// (ties: the lower id). Of the logits as they are; what is no number has none and is left out. The sum is taken in
/// float64.
void token_logprobs(std::span<const float> logits, token_id drawn, std::size_t n, std::vector<token_logprob>& out);

} // namespace tropilla
