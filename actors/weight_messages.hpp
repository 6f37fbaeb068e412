/// Messages about weights: compute asks its prefetcher, the prefetcher asks the loader.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/memory_messages.hpp"
#include "actors/registration.hpp"
#include "memory/lease.hpp"
#include "src/model/step.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tropilla::cast {

/// A prefetcher -> loader. Answered with `group_loaded` when the group is packed in `destination`;
/// fails with io_error, malformed_file, over_budget (of the processor's memory, or for staging), device_failed, or
/// cancelled when the loader ends. The loader takes them in the order in which they come.
struct load_group {
  std::size_t group = 0;
  lease destination; ///< the resident group's block, the ring slot, or the mapped range
};
struct group_loaded {
  std::size_t group = 0;
};

/// Compute -> loader, where the embedding is not in memory: the rows of a step's tokens.
/// Answered with `embedding_ready`; fails with io_error, malformed_file, or over_budget (for staging).
struct look_up_embedding {
  std::shared_ptr<const tropilla::step> step;
  float* rows = nullptr; ///< [ids, width]; stays valid until the answer
};
struct embedding_ready {};

/// The loader to itself, from a thread of its own.
struct transfer_done {
  std::uint64_t id = 0;
  std::shared_ptr<const error> failure; ///< null: none
};

/// Scheduler -> loader: nothing is asked for a while, and the pages of staging bytes go back to the system, unless
/// steps need them.
struct trim_staging {};

using loader_actor = typed_actor<caf::result<group_loaded>(load_group), caf::result<embedding_ready>(look_up_embedding),
                                 caf::result<void>(transfer_done), caf::result<void>(trim_staging)>;

/// Compute -> prefetcher. Answered with `group_ready` once the group is in memory; fails as `load_group` and
/// `acquire_memory` do, and is tried again when it is asked for again. Groups that stay are asked for once, streamed
/// ones in every step, all in order.
struct need_group {
  std::size_t group = 0;
};
struct group_ready {
  std::size_t group = 0;
  lease weights;
};

/// Compute -> prefetcher, for a streamed group: no job reads it any more, its slot may take the next one.
struct release_group {
  std::size_t group = 0;
};

/// Compute -> prefetcher: what the step needs from where it stands, at its begin or after a new pipeline. A step
/// without logits ends before the output norm, and behind the last layer comes the first again.
struct announce_step {
  bool with_logits = true;
};

/// Compute -> prefetcher: the step failed, and the next one begins at the first group. Whatever streamed groups were
/// handed out, also those that are still in flight to compute, count as released; who waits for one gets cancelled.
struct abandon_step {};

/// Anyone (the arbiter's reclaimer) -> prefetcher: bytes are short; a slot that is not in use goes back.
struct shrink_ring {};

using prefetcher_actor =
    typed_actor<caf::result<group_ready>(need_group), caf::result<void>(release_group),
                caf::result<void>(announce_step), caf::result<void>(abandon_step), caf::result<void>(shrink_ring)>;

/// The actors of a device that bring weights. They are replaced together: they hold nothing that can't be had again,
/// and know each other.
struct weight_pipeline {
  memory_manager_actor memory_manager;
  loader_actor loader;
  prefetcher_actor prefetcher;
};

} // namespace tropilla::cast
