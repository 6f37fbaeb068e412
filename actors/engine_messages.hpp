/// Messages that the engine gets from inside; those of its clients are in tropilla/actors.hpp.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"
#include "src/schedule/sequence.hpp"

namespace tropilla::cast {

/// A reply's sink -> engine: the client has got its last message.
struct reply_over {
  request_id id = 0;
};

} // namespace tropilla::cast
