/// Messages about requests: clients speak to the scheduler.
#pragma once

#include "actors/caf_seam.hpp"
#include "actors/registration.hpp"
#include "src/placement/memory_flow.hpp"
#include "src/schedule/batcher.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace tropilla::cast {

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
  std::size_t page_limit = 0;                  ///< KV pages that there are bytes for
  std::vector<memory_flow::past_move> moves{}; ///< the newest first
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
/// The mover of pages -> scheduler: a move is over.
struct pages_moved {};

/// A client -> scheduler: another budget of a device, by its number in the order of the layers. Answered with
/// `budget_changed` once it counts; fails with over_budget, io_error, or invalid_argument while replicas use the
/// weights.
struct change_budget {
  std::size_t device = 0;
  std::size_t bytes = 0;
};
struct budget_changed {};

/// A replica -> scheduler: weights stay as they are while it lives. Answered with `placement_kept` when a sequence of
/// the whole context has pages beside them.
struct keep_placement {};
struct placement_kept {};

/// The scheduler to itself: ask for the memory of extents again.
struct ask_again {
  extent_number extent = 0;
  std::size_t attempt = 0;
};

/// The scheduler to itself: ask a device's supervisor again.
struct change_again {
  std::size_t device = 0;
};

/// The scheduler to itself: whether anything has happened since the last look.
struct look_at_progress {};

using scheduler_actor =
    typed_actor<caf::result<request_accepted>(submit_request), caf::result<void>(cancel_request),
                caf::result<request_accepted>(logits_read), caf::result<batch_state>(query_batch),
                caf::result<pages_lent>(borrow_pages), caf::result<pages_lent>(borrow_empty_pages),
                caf::result<pages_returned>(fill_pages), caf::result<pages_returned>(return_pages),
                caf::result<void>(member_replaced), caf::result<void>(member_down),
                caf::result<void>(supervisors_spawned), caf::result<void>(look_at_clock),
                caf::result<void>(pages_moved), caf::result<void>(look_at_progress),
                caf::result<budget_changed>(change_budget), caf::result<placement_kept>(keep_placement),
                caf::result<void>(ask_again), caf::result<void>(change_again)>;

} // namespace tropilla::cast
