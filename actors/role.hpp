/// A role of the cast and its holder of the moment, for actors that speak to it while holders come and go.
#pragma once

#include "actors/caf_seam.hpp"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

namespace tropilla::cast {

/// Any thread.
template <class Handle>
class role {
public:
  [[nodiscard]] Handle get() const {
    const std::lock_guard lock(mutex_);
    return holder_;
  }
  void set(Handle holder) {
    const std::lock_guard lock(mutex_);
    std::swap(holder_, holder); // the old handle goes after the lock: who is told of its actor's end may ask here
    changed_.notify_all();
  }
  /// Nobody will follow. `why` is thrown to those who ask later. The last holder stays, for late callers.
  void close(std::optional<error> why = {}) {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    why_ = std::move(why);
    changed_.notify_all();
  }
  [[nodiscard]] bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  /// The reason given to `close`.
  [[nodiscard]] std::optional<error> closed_because() const {
    const std::lock_guard lock(mutex_);
    return why_;
  }
  /// Blocks until an actor other than `old` holds it; false when none will.
  [[nodiscard]] bool wait_for_another(const Handle& old) const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || holder_ != old; });
    return holder_ != old;
  }

private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Handle holder_;
  bool closed_ = false;
  std::optional<error> why_;
};

/// Asks the holder of a role, and after it ended its successor. Blocks; from a thread that is no actor. Throws `error`.
template <class Answer, class Handle, class Message>
Answer ask_role(caf::actor_system& system, const role<Handle>& to, const Message& m) {
  for (;;) {
    const auto holder = to.get();
    try {
      return ask_and_wait<Answer>(system, holder, Message(m));
    } catch (const member_gone&) {
      if (to.wait_for_another(holder))
        continue;
      if (const auto why = to.closed_because())
        throw error(*why);
      throw;
    }
  }
}

/// Ends the holder of a role, and waits. No other one follows.
template <class Handle>
void end_role(caf::actor_system& system, role<Handle>& of) {
  of.close();
  end_and_wait(system, of.get());
}

} // namespace tropilla::cast
