/// Logits to a token: greedy, temperature, top-k, top-p.
#pragma once

#include "tropilla/types.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace tropilla {

/// Throws `error` (invalid_argument) for a negative or NaN temperature or a top-p outside (0, 1].
void check_sampling(const sampling_options& options);

/// A uniform number in [0, 1) for the `index`-th token of a sequence: stateless, so that a sequence draws the same
/// numbers whatever else is in the batch. SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators",
/// OOPSLA 2014) over seed and index.
[[nodiscard]] double uniform_draw(std::uint64_t seed, std::uint64_t index) noexcept;

/// Draws tokens; keeps its scratch between calls. One thread at a time.
class token_drawer {
public:
  /// The token, or -1 when no logit is a number. NaN logits are never drawn; ties go to the lower id.
  /// Order of the filters: temperature, top-k, top-p.
  [[nodiscard]] token_id draw(std::span<const float> logits, const sampling_options& options, std::uint64_t index);

private:
  struct candidate {
    float logit;
    token_id id;
  };
  std::vector<candidate> candidates_;
};

} // namespace tropilla
