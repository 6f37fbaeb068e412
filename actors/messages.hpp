/// The messages of the cast, grouped by conversation: who sends each, who answers with what, and how it fails.
///
/// Messages are plain structs that stay in the process. A request that fails is answered with a `caf::error` of
/// category `tropilla` (`cast::from_caf` gives the code and the sentence); an actor that ended answers everything so.
#pragma once

#include "actors/caf_seam.hpp"
#include "kernels/device.hpp"
#include "memory/arbiter.hpp"
#include "src/model/llama.hpp"
#include "src/placement/placement.hpp"
#include "src/schedule/batcher.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace tropilla::cast {

// -- memory: anyone asks the memory_manager --------------------------------------------------------------------------

/// Anyone -> memory_manager. Answered with `memory_granted`, at once or when bytes came back;
/// fails with over_budget when it can never fit.
struct acquire_memory {
  memory_request request;
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

using memory_manager_actor = typed_actor<caf::result<memory_granted>(acquire_memory), caf::result<void>(grant_settled)>;

// -- weights: compute asks its prefetcher, the prefetcher asks the loader ---------------------------------------------

/// A prefetcher -> loader. Answered with `group_loaded` when the group is packed in `destination`;
/// fails with io_error or malformed_file. The loader takes them in the order in which they come.
struct load_group {
  std::size_t group = 0;
  lease destination; ///< the group's block, or one outside of the pool where the group is mapped
};
struct group_loaded {
  std::size_t group = 0;
};

/// Compute -> loader, where the embedding is not in memory: the rows of a step's tokens.
/// Answered with `embedding_ready`; fails with io_error or malformed_file.
struct look_up_embedding {
  std::shared_ptr<const step> work;
  float* rows = nullptr; ///< [ids, width]; stays valid until the answer
};
struct embedding_ready {};

/// The loader to itself, from a thread of its own.
struct transfer_done {
  std::uint64_t id = 0;
  std::shared_ptr<const error> failure; ///< null: none
};

using loader_actor = typed_actor<caf::result<group_loaded>(load_group), caf::result<embedding_ready>(look_up_embedding),
                                 caf::result<void>(transfer_done)>;

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

/// Compute -> prefetcher: what the step that begins will need. A step without logits ends before the output, and behind
/// the last layer comes the first again.
struct begin_step {
  bool output = true;
};

/// Compute -> prefetcher: the step failed, and the next one begins at the first group. Whatever streamed groups were
/// handed out, also those that are still on their way to compute, count as released; who waits for one gets cancelled.
struct abandon_step {};

/// Anyone (the arbiter's reclaimer) -> prefetcher: bytes are short; a slot that is not in use goes back.
struct shrink_ring {};

using prefetcher_actor =
    typed_actor<caf::result<group_ready>(need_group), caf::result<void>(release_group), caf::result<void>(begin_step),
                caf::result<void>(abandon_step), caf::result<void>(shrink_ring)>;

/// The actors of a device that bring weights. They are replaced together: they hold nothing that can't be had again,
/// and know each other.
struct weight_pipeline {
  memory_manager_actor memory_manager;
  loader_actor loader;
  prefetcher_actor prefetcher;
};

// -- steps: the scheduler asks compute and the sampler ----------------------------------------------------------------

/// Scheduler -> compute. Answered with `step_computed`; fails as `need_group` does. One at a time: what comes while one
/// is computed (from a scheduler that took over) waits.
struct run_step {
  std::shared_ptr<const step> work;
  hidden_input from{}; ///< stays valid until the answer
};
struct step_computed {
  step_output output; ///< valid until the next `run_step`
  step_times times;
};

/// Compute to itself, from the compute stream's thread: a run of groups is done, or first of all what the compute
/// before it had out.
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
  std::shared_ptr<const weight_placement> weights;
  std::vector<lease> leases; ///< by group; empty for what is streamed
};

/// Supervisor -> compute: another prefetcher will follow, with `next`. Answered with `weights_suspended` when no job is
/// out (and, where the placement changes, between two steps); nothing is computed until `resume_weights`.
struct suspend_weights {
  std::shared_ptr<const weight_placement> next;
};
struct weights_suspended {
  std::shared_ptr<const weight_placement> next;
  std::vector<lease> kept; ///< by group of the next placement; empty: it has to be fetched
};

/// Supervisor -> compute: go on where the step stands.
struct resume_weights {
  std::shared_ptr<const weight_placement> weights;
  weight_pipeline pipeline;
  std::vector<lease> kept;
};

using compute_actor =
    typed_actor<caf::result<step_computed>(run_step), caf::result<void>(job_done),
                caf::result<weights_resident>(await_weights), caf::result<weights_shared>(share_weights),
                caf::result<weights_suspended>(suspend_weights), caf::result<void>(resume_weights)>;

/// Scheduler -> sampler. Answered with `tokens_drawn`.
struct draw_tokens {
  step_computed from; ///< stays valid until the answer
  std::size_t vocabulary = 0;
  std::vector<draw_job> jobs;
};
struct tokens_drawn {
  std::vector<drawn_token> tokens; ///< in the order of the jobs
};

using sampler_actor = typed_actor<caf::result<tokens_drawn>(draw_tokens)>;

// -- requests: clients speak to the scheduler ----

/// A client -> scheduler. @pre the request passed `check_request`. Results go to the request's sink. Fails (and leaves
/// the sink alone) with busy, or device_failed when a member of the cast is gone.
struct submit_request {
  sequence_request request;
};
struct request_accepted {
  request_id id = 0;
};

/// A client -> scheduler. The sink still gets `finished`, with reason cancelled, unless it had ended already.
struct cancel_request {
  request_id id = 0;
};

/// A client that scores -> scheduler: it has read the logits of the last step. Answered with `request_accepted`.
struct logits_read {
  request_id id = 0;
};

/// A client -> scheduler: it wants to read the pages that hold the beginning of `tokens`. Answered with `pages_lent`;
/// ends with `return_pages`. `borrower` is an id of a request's kind; a message that is sent twice does no harm.
struct borrow_pages {
  request_id borrower = 0;
  std::vector<token_id> tokens;
};
/// A client -> scheduler: it wants pages for so many tokens to fill. Answered with `pages_lent`, fails with
/// context_full or busy; ends with `fill_pages` or `return_pages`.
struct borrow_empty_pages {
  request_id borrower = 0;
  std::size_t tokens = 0;
};
struct pages_lent {
  page_loan loan;
};
/// A client -> scheduler: the empty pages that it borrowed hold keys and values of `tokens` now. Answered with
/// `pages_returned`.
struct fill_pages {
  request_id borrower = 0;
  std::vector<token_id> tokens;
};
/// A client -> scheduler. Answered with `pages_returned`; unknown loans count as void.
struct return_pages {
  request_id borrower = 0;
};
struct pages_returned {
  bool valid = true; ///< false: all pages were forgotten meanwhile
};

/// Anyone -> scheduler. Answered with `batch_state`.
struct query_batch {};
struct batch_state {
  batch_usage usage;
};

/// Supervisor -> scheduler: another member holds a role; what failed with the one before is asked for again.
struct member_replaced {};

/// Supervisor -> scheduler: a member of the cast ended and is not replaced, everything that needs it fails.
struct member_down {
  std::string member;
  std::string reason;
};

/// The opening runtime -> scheduler: supervisors were spawned, which it is to watch.
struct supervisors_spawned {};

/// The scheduler to itself: a request's time may be over.
struct look_at_clock {};

/// The scheduler to itself: whether anything has happened since the last look.
struct look_at_progress {};

using scheduler_actor = typed_actor<caf::result<request_accepted>(submit_request), caf::result<void>(cancel_request),
                                    caf::result<request_accepted>(logits_read), caf::result<batch_state>(query_batch),
                                    caf::result<pages_lent>(borrow_pages), caf::result<pages_lent>(borrow_empty_pages),
                                    caf::result<pages_returned>(fill_pages), caf::result<pages_returned>(return_pages),
                                    caf::result<void>(member_replaced), caf::result<void>(member_down),
                                    caf::result<void>(supervisors_spawned), caf::result<void>(look_at_clock),
                                    caf::result<void>(look_at_progress)>;

// -- supervision ------------------------------------------------------------------------------------------------------

/// Anyone -> supervisor. Answered with `cast_health`.
struct query_health {};
struct cast_health {
  std::vector<std::string> down; ///< "sampler: reason"; empty when all is well
  std::size_t restarts = 0;      ///< how often one of the cast was replaced
};

/// A client -> supervisor. Answered with `weights_changed` once those who bring weights follow the new placement;
/// fails with over_budget or io_error.
struct change_weights {
  std::shared_ptr<const weight_placement> next;
};
struct weights_changed {};

using supervisor_actor =
    typed_actor<caf::result<cast_health>(query_health), caf::result<weights_changed>(change_weights)>;

// -- batch files ------------------------------------------------------------------------------------------------------

/// A client -> feeder: so many requests more may come to its sink. Nothing answers; an input that can't be read is told
/// to the sink.
struct pull_requests {
  std::size_t count = 0;
};

/// The feeder to itself: read on, as long as there is room.
struct read_ahead {};

using feeder_actor = typed_actor<caf::result<void>(pull_requests), caf::result<void>(read_ahead)>;

// -- the engine -------------------------------------------------------------------------------------------------------

/// A reply's sink -> engine: the client has got its last message.
struct reply_over {
  request_id id = 0;
};

} // namespace tropilla::cast

#include "actors/registration.hpp"
