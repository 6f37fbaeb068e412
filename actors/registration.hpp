/// Makes the messages of the cast and of the engine known to CAF, before they are defined; included by their headers.
#pragma once

#include "tropilla/actors.hpp"

#define TROPILLA_CAST_MESSAGES(X)                                                                                      \
  X(acquire_memory)                                                                                                    \
  X(memory_granted)                                                                                                    \
  X(grant_settled)                                                                                                     \
  X(trim_memory)                                                                                                       \
  X(load_group)                                                                                                        \
  X(group_loaded)                                                                                                      \
  X(transfer_done)                                                                                                     \
  X(trim_staging)                                                                                                      \
  X(need_group)                                                                                                        \
  X(group_ready)                                                                                                       \
  X(await_weights)                                                                                                     \
  X(weights_resident)                                                                                                  \
  X(run_step)                                                                                                          \
  X(step_computed)                                                                                                     \
  X(job_done)                                                                                                          \
  X(draw_tokens)                                                                                                       \
  X(tokens_drawn)                                                                                                      \
  X(submit_request)                                                                                                    \
  X(request_accepted)                                                                                                  \
  X(cancel_request)                                                                                                    \
  X(logits_read)                                                                                                       \
  X(query_batch)                                                                                                       \
  X(batch_state)                                                                                                       \
  X(member_replaced)                                                                                                   \
  X(member_down)                                                                                                       \
  X(supervisors_spawned)                                                                                               \
  X(look_at_clock)                                                                                                     \
  X(pages_moved)                                                                                                       \
  X(look_at_progress)                                                                                                  \
  X(query_health)                                                                                                      \
  X(cast_health)                                                                                                       \
  X(reply_over)                                                                                                        \
  X(release_group)                                                                                                     \
  X(announce_step)                                                                                                     \
  X(abandon_step)                                                                                                      \
  X(shrink_ring)                                                                                                       \
  X(look_up_embedding)                                                                                                 \
  X(embedding_ready)                                                                                                   \
  X(share_weights)                                                                                                     \
  X(weights_shared)                                                                                                    \
  X(suspend_compute)                                                                                                   \
  X(compute_suspended)                                                                                                 \
  X(resume_compute)                                                                                                    \
  X(change_placement)                                                                                                  \
  X(placement_changed)                                                                                                 \
  X(pull_requests)                                                                                                     \
  X(read_ahead)                                                                                                        \
  X(borrow_pages)                                                                                                      \
  X(borrow_empty_pages)                                                                                                \
  X(pages_lent)                                                                                                        \
  X(fill_pages)                                                                                                        \
  X(return_pages)                                                                                                      \
  X(pages_returned)                                                                                                    \
  X(change_budget)                                                                                                     \
  X(budget_changed)                                                                                                    \
  X(keep_placement)                                                                                                    \
  X(placement_kept)                                                                                                    \
  X(ask_again)                                                                                                         \
  X(change_again)

namespace tropilla::cast {
#define TROPILLA_DECLARE(T) struct T;
TROPILLA_CAST_MESSAGES(TROPILLA_DECLARE)
#undef TROPILLA_DECLARE
} // namespace tropilla::cast

#if CAF_MAJOR_VERSION >= 1
namespace tropilla::cast {
/// `errc` under a name of its own, so that CAF knows it as an error code.
enum class caf_code : std::uint8_t {};
inline std::string to_string(caf_code code) {
  return std::string(tropilla::to_string(static_cast<errc>(code)));
}
template <class Inspector>
bool inspect(Inspector& f, caf_code& code) {
  return f.apply([&] { return static_cast<std::uint8_t>(code); },
                 [&](std::uint8_t value) {
                   code = static_cast<caf_code>(value);
                   return true;
                 });
}
} // namespace tropilla::cast
#define TROPILLA_ADD_TYPE_ID(T) CAF_ADD_TYPE_ID(tropilla, (tropilla::cast::T))
CAF_BEGIN_TYPE_ID_BLOCK(tropilla, TROPILLA_FIRST_TYPE_ID + 20)
TROPILLA_CAST_MESSAGES(TROPILLA_ADD_TYPE_ID)
CAF_ADD_TYPE_ID(tropilla, (tropilla::cast::caf_code))
CAF_END_TYPE_ID_BLOCK(tropilla)
CAF_ERROR_CODE_ENUM(tropilla::cast::caf_code)
#undef TROPILLA_ADD_TYPE_ID
#endif
#define TROPILLA_ALLOW(T) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tropilla::cast::T)
TROPILLA_CAST_MESSAGES(TROPILLA_ALLOW)
#undef TROPILLA_ALLOW
#undef TROPILLA_CAST_MESSAGES
