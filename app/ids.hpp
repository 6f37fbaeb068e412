/// Parses token ids written by people and scripts.
#pragma once

#include "tropilla/types.hpp"

#include <string_view>
#include <vector>

namespace tropilla::app {

/// Parses numbers separated by white space or commas, or a JSON array of them. Throws `error` (invalid_argument) naming
/// what is no id; the tokenizer checks whether the vocabulary has them.
[[nodiscard]] std::vector<token_id> parse_ids(std::string_view text);

} // namespace tropilla::app
