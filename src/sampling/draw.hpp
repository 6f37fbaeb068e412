/// Draws a token from logits, as `sampling_options` says.
#pragma once

#include "src/sampling/token_history.hpp"
#include "tropilla/types.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace tropilla {

/// A uniform number in [0, 1) for the `index`-th token of a sequence: stateless, so that a sequence draws the same
/// numbers whatever else is in the batch. SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators",
/// OOPSLA 2014) over seed and index.
[[nodiscard]] double uniform_draw(std::uint64_t seed, std::uint64_t index) noexcept;

/// The k of the top-k logits of a row that are enough to draw the token and to tell of it; 0: all are needed.
[[nodiscard]] std::size_t sufficient_top_k(const generation_options& options) noexcept;

/// Draws tokens; keeps its scratch between calls. One thread at a time.
class token_drawer {
public:
  /// The token, or -1 when no logit is a number or all are banned. NaN logits are never drawn; ties go to the lower id.
  /// A function of its arguments alone: `index` is the token's number in its reply. @pre checked options.
  [[nodiscard]] token_id draw(std::span<const float> logits, const sampling_options& options, std::uint64_t index,
                              const token_history& history = {});

private:
  struct candidate {
    float logit;
    token_id id;
    double weight; ///< e^((logit - largest) / temperature)
  };
  [[nodiscard]] std::span<const float> modified(std::span<const float> logits, const sampling_options& options,
                                                const token_history& history);
  /// Sorts the candidates, most probable first, and keeps the first `count`; 0: all.
  void sort_and_truncate(std::size_t count);
  void keep_typical(double share);

  std::vector<float> modified_;
  std::vector<candidate> candidates_;
};

} // namespace tropilla
