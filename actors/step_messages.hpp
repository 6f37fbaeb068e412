/// Messages about steps: the scheduler asks compute and the sampler, the supervisor has compute change its weights.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"
#include "actors/weight_messages.hpp"
#include "kernels/device_group.hpp"
#include "src/model/llama.hpp"
#include "src/placement/placement.hpp"
#include "src/schedule/batcher.hpp"

#include <cstddef>
#include <memory>
#include <vector>

namespace tropilla::cast {

/// Scheduler -> compute. Answered with `step_computed`; fails as `need_group` does. One at a time: what comes while one
/// is computed (from a scheduler that took over) waits.
struct run_step {
  std::shared_ptr<const tropilla::step> step;
  hidden_input from{}; ///< stays valid until the answer
  /// From the first of the devices that have shares of the same layers to the others: their group. Else null.
  std::shared_ptr<const group_ends> group{};
};
struct step_computed {
  step_output output; ///< valid until the next `run_step`
  step_times times;
};

/// Compute to itself, from the compute stream's thread: groups are computed. The first one says that no job of the
/// compute before this one is in flight any more.
struct job_done {
  double seconds = 0;
};

/// Anyone -> compute. Answered with `weights_resident` when every group that stays is in memory; fails as `need_group`.
struct await_weights {};
struct weights_resident {};

/// A replica -> compute. Answered with `weights_shared` when every group that stays is in memory; fails as
/// `need_group`.
struct share_weights {};
struct weights_shared {
  std::shared_ptr<const weight_placement> placement;
  std::vector<lease> leases; ///< by group; empty for what is streamed
};

/// Supervisor -> compute: another weight pipeline will follow, with `next_placement`. Answered with `compute_suspended`
/// when no job is in flight (and, where the placement changes, between two steps); nothing is computed until
/// `resume_compute`.
struct suspend_compute {
  std::shared_ptr<const weight_placement> next_placement;
};
struct compute_suspended {
  std::shared_ptr<const weight_placement> next_placement;
  std::vector<lease> kept; ///< by group of the next placement; empty: it has to be loaded
};

/// Supervisor -> compute: go on where the step stands.
struct resume_compute {
  std::shared_ptr<const weight_placement> placement;
  weight_pipeline pipeline;
  std::vector<lease> kept;
};

using compute_actor =
    typed_actor<caf::result<step_computed>(run_step), caf::result<void>(job_done),
                caf::result<weights_resident>(await_weights), caf::result<weights_shared>(share_weights),
                caf::result<compute_suspended>(suspend_compute), caf::result<void>(resume_compute)>;

/// Scheduler -> sampler. Answered with `tokens_drawn`.
struct draw_tokens {
  step_computed from; ///< stays valid until the answer
  std::size_t vocabulary = 0;
  std::vector<token_draw> draws;
};
struct tokens_drawn {
  std::vector<drawn_token> tokens; ///< in the order of the draws
};

using sampler_actor = typed_actor<caf::result<tokens_drawn>(draw_tokens)>;

} // namespace tropilla::cast
