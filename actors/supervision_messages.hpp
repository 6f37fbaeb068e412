/// Messages of the supervisor: health, and changes of weights.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"
#include "src/placement/placement.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace tropilla::cast {

/// Anyone -> supervisor. Answered with `cast_health`.
struct query_health {};
struct cast_health {
  std::vector<std::string> down; ///< "sampler: reason"; empty when all is well
  std::size_t restarts = 0;      ///< how often one of the cast was replaced
};

/// A client -> supervisor. Answered with `placement_changed` once those who bring weights follow the new placement;
/// fails with over_budget or io_error.
struct change_placement {
  std::shared_ptr<const weight_placement> next_placement;
};
struct placement_changed {};

using supervisor_actor =
    typed_actor<caf::result<cast_health>(query_health), caf::result<placement_changed>(change_placement)>;

} // namespace tropilla::cast
