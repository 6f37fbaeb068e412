/// Makes the program's whole heap memory that GPUs can use, so that tests which were written for the processor's memory
/// run on a GPU.
#pragma once

#include <cstddef>

namespace tropilla::testing {

/// From now on `new` takes from these bytes while there are some. @pre `memory` is aligned to 64 KiB, and stays
void use_as_heap(std::byte* memory, std::size_t bytes) noexcept;

} // namespace tropilla::testing
