/// Turns any exception into a `tropilla::error`, for the places where exceptions stop and become answers.
#pragma once

#include "tropilla/error.hpp"

#include <exception>

namespace tropilla {

/// Returns an `error` as it is, over_budget where the system refused memory, else internal. May throw `std::bad_alloc`
/// for its sentence.
[[nodiscard]] error error_of(const std::exception_ptr& thrown);

} // namespace tropilla
