/// Counts which tokens a sequence has had, and how often, for penalties.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace tropilla {

/// Whether the next token depends on how often others came before.
[[nodiscard]] inline bool counts_tokens(const sampling_options& options) noexcept {
  return options.repetition_penalty != 1 || options.frequency_penalty != 0 || options.presence_penalty != 0;
}

/// Counts of the tokens of one sequence. One thread at a time.
class token_history {
public:
  struct counts {
    std::uint32_t all = 0;   ///< in prompt and reply
    std::uint32_t reply = 0; ///< of these, in the reply
  };

  token_history() = default;
  /// Counts the last `window` tokens (0: all) of `prompt` and of what is pushed.
  token_history(std::size_t window, std::span<const token_id> prompt);

  /// The reply's next token.
  void push(token_id token) { add(token, true); }
  [[nodiscard]] const std::unordered_map<token_id, counts>& tokens() const noexcept { return counts_; }

private:
  struct entry {
    token_id token;
    bool reply;
  };
  void add(token_id token, bool reply);

  std::size_t window_ = 0;
  std::vector<entry> recent_; ///< a ring, where there is a window
  std::size_t oldest_ = 0;
  std::unordered_map<token_id, counts> counts_;
};

} // namespace tropilla
