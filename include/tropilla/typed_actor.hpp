/// Hides the difference between CAF 0.17 (Debian's package) and 1.x for the public interface. Signatures are written as
/// CAF 1.x writes them, `caf::result<R>(A...)`; on 0.17 they are mapped to `replies_to`.
#pragma once

#include <caf/all.hpp>

#include <utility>

#if CAF_MAJOR_VERSION < 1 && CAF_VERSION >= 1800
#error "CAF 0.18 and 0.19 are not supported; use 0.17 or 1.x"
#endif

namespace tropilla {

namespace detail {

/// Maps a signature to the form that the installed CAF uses.
template <class Signature>
struct mapped_signature;
#if CAF_MAJOR_VERSION < 1
template <class... Rs, class... As>
struct mapped_signature<caf::result<Rs...>(As...)> {
  using type = typename caf::replies_to<As...>::template with<Rs...>;
};
template <class... As>
struct mapped_signature<caf::result<void>(As...)> {
  using type = caf::reacts_to<As...>;
};
#else
template <class... Rs, class... As>
struct mapped_signature<caf::result<Rs...>(As...)> {
  using type = caf::result<Rs...>(As...);
};
#endif

} // namespace detail

/// A typed handle: `typed_actor<caf::result<answer>(question), caf::result<void>(notice)>`.
template <class... Signatures>
using typed_actor = caf::typed_actor<typename detail::mapped_signature<Signatures>::type...>;

/// Sends an actor a message without a sender. Any thread, in actors and outside of them.
template <class Handle, class Message>
void tell_from_outside(const Handle& to, Message&& m) {
#if CAF_MAJOR_VERSION < 1
  caf::anon_send(to, std::forward<Message>(m));
#else
  caf::anon_mail(std::forward<Message>(m)).send(to);
#endif
}

/// Asks an actor to end. It finishes the message at hand first. Any thread.
template <class Handle>
void send_exit(const Handle& to) {
  caf::anon_send_exit(to, caf::exit_reason::user_shutdown);
}

} // namespace tropilla
