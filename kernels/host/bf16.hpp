/// A bfloat16 in memory, as a type that is not mistaken for an IEEE half.
#pragma once

#include <cstdint>

namespace tropilla::host {

enum class bf16 : std::uint16_t {};

} // namespace tropilla::host
