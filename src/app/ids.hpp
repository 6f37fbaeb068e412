/// Token ids written by people and scripts.
#pragma once

#include "tropilla/types.hpp"

#include <string_view>
#include <vector>

namespace tropilla::app {

/// Numbers separated by white space or commas, or a JSON array of them. Throws `error` (invalid_argument) naming what
/// is no id; whether a vocabulary has them is the tokenizer's to say.
[[nodiscard]] std::vector<token_id> parse_ids(std::string_view text);

} // namespace tropilla::app
