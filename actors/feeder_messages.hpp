/// Messages about batch files: a client asks the feeder for requests.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"

#include <cstddef>

namespace tropilla::cast {

/// A client -> feeder: so many requests more may come to its sink. Nothing answers; an input that can't be read is told
/// to the sink.
struct pull_requests {
  std::size_t count = 0;
};

/// The feeder to itself: read on, as long as there is room.
struct read_ahead {};

using feeder_actor = typed_actor<caf::result<void>(pull_requests), caf::result<void>(read_ahead)>;

} // namespace tropilla::cast
