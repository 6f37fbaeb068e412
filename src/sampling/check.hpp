/// Checks whether the options of a request can be followed.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>

namespace tropilla {

/// Throws `error` (invalid_argument) with the numbers for what is out of its range: temperatures, shares, penalties,
/// ids, stop strings, logprobs.
void check_generation(const generation_options& options, std::size_t vocabulary);

} // namespace tropilla
