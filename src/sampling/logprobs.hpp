/// Computes log-probabilities of tokens, for clients that ask for them.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace tropilla {

/// Fills `out` with `drawn`'s log-probability and then those of the `n` most probable tokens, most probable first
/// (ties: the lower id). The logits are taken as they are; NaN has no log-probability and is left out. The sum is taken
/// in float64.
void token_logprobs(std::span<const float> logits, token_id drawn, std::size_t n, std::vector<token_logprob>& out);

} // namespace tropilla
