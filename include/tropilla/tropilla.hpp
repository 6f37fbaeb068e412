/// Includes the whole public interface, without actors (those are in `tropilla/actors.hpp`).
#pragma once

#include "tropilla/error.hpp"   // IWYU pragma: export
#include "tropilla/runtime.hpp" // IWYU pragma: export
#include "tropilla/types.hpp"   // IWYU pragma: export
#include "tropilla/version.hpp" // IWYU pragma: export
