/// Messages about memory: any actor asks the memory_manager.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"
#include "memory/arbiter.hpp"

#include <cstdint>
#include <string>

namespace tropilla::cast {

/// Anyone -> memory_manager. Answered with `memory_granted`, at once or when bytes came back; fails with over_budget
/// when it can never fit, when the device has no memory for it, and, unless it `waits`, where it would have to wait.
struct acquire_memory {
  memory_request request;
  bool waits =
      true; ///< false: answered at once, as by `memory_arbiter::try_acquire`. A refusal is nothing unusual then
};
struct memory_granted {
  lease bytes;
};

/// The memory_manager to itself, from whatever thread the arbiter answered on.
struct grant_settled {
  std::uint64_t id = 0;
  lease granted;       ///< empty: refused
  std::string refused; ///< why
};

/// Scheduler -> memory_manager: nothing is asked for a while, and the pages of a device's free bytes go back to the
/// system.
struct trim_memory {
  std::string device;
};

using memory_manager_actor = typed_actor<caf::result<memory_granted>(acquire_memory), caf::result<void>(grant_settled),
                                         caf::result<void>(trim_memory)>;

} // namespace tropilla::cast
