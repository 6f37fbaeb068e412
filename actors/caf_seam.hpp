/// All code that depends on the version of CAF, 0.17 (Debian's package) or 1.x; handles and what is sent from outside
/// of actors are in `tropilla/typed_actor.hpp`, for programs that use the library.
///
/// Actors are classes `stateful_actor<Handle, State>`; a state has a constructor `State(Handle::pointer, args...)` and
/// `behaviour()`. Messages stay in the process: none is serialised.
#pragma once

#include "kernels/device.hpp"
#include "kernels/threads.hpp"
#include "memory/error_of.hpp"
#include "tropilla/error.hpp"
#include "tropilla/typed_actor.hpp"

#include <caf/actor_registry.hpp>
#include <caf/detail/private_thread.hpp>
#include <caf/logger.hpp>
#include <chrono>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace tropilla::cast {

using tropilla::send_exit;
using tropilla::typed_actor;

/// Lives while a thread that is not CAF's uses an actor system, so that the thread keeps nothing of the system after
/// it. CAF 0.17 has it hold the logger of the last system in which it spawned, and the end of a system waits for its
/// logger: for as long as the thread lives.
class visit {
public:
#if CAF_MAJOR_VERSION < 1
  visit() noexcept : holds_(caf::logger::current_logger() != nullptr) {}
  ~visit() {
    if (!holds_)
      caf::logger::set_current_actor_system(nullptr);
  }
  visit(const visit&) = delete;
  visit& operator=(const visit&) = delete;

private:
  bool holds_; ///< it is a thread of a system's, or its program wants it so
#endif
};

/// Does what must not be left undone, though it needs a little memory: an answer that others wait for, the end of an
/// actor. Where the system refuses memory it tries again for a second, then throws `std::bad_alloc` as `f` does. `f`
/// may be called again after it threw. Any thread.
template <class F>
auto retry_on_bad_alloc(const F& f) {
  for (std::chrono::milliseconds pause{1}, waited{0};; waited += pause) {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      if (waited >= std::chrono::seconds(1))
        throw;
    }
    std::this_thread::sleep_for(pause);
  }
}

/// As `tropilla::tell_from_outside`, retried on bad_alloc.
template <class Handle, class Message>
void tell_from_outside(const Handle& to, const Message& m) {
  retry_on_bad_alloc([&] { tropilla::tell_from_outside(to, Message(m)); });
}

/// Sends a request, retried on bad_alloc, and returns what `.then(on_answer, on_error)` is called on. No timeout
/// unless given.
template <class Self, class Handle, class Message>
auto ask(Self* self, const Handle& to, const Message& m) {
#if CAF_MAJOR_VERSION < 1
  return retry_on_bad_alloc([&] { return self->request(to, caf::infinite, Message(m)); });
#else
  return retry_on_bad_alloc([&] { return self->mail(Message(m)).request(to, caf::infinite); });
#endif
}

/// Sends a notice from an actor, retried on bad_alloc.
template <class Self, class Handle, class Message>
void tell(Self* self, const Handle& to, const Message& m) {
#if CAF_MAJOR_VERSION < 1
  retry_on_bad_alloc([&] { self->send(to, Message(m)); });
#else
  retry_on_bad_alloc([&] { self->mail(Message(m)).send(to); });
#endif
}

/// Sends an actor a notice from itself, later.
template <class Self, class Message>
void tell_later(Self* self, std::chrono::nanoseconds wait, Message&& m) {
#if CAF_MAJOR_VERSION < 1
  self->delayed_send(self, wait, std::forward<Message>(m));
#else
  self->mail(std::forward<Message>(m)).delay(std::chrono::duration_cast<caf::timespan>(wait)).send(self);
#endif
}

/// Runs on the calling thread the actors that a message sets in motion, until none of them has anything to do: the
/// answer to a step wakes no other thread, which takes 5 to 50 us each time. Only for threads whose work can wait that
/// long. On CAF 1.x messages take the ordinary way.
class inline_executor {
public:
  explicit inline_executor(caf::actor_system& system);
  ~inline_executor();

  /// Sends a notice, retried on bad_alloc, and runs what follows from it here.
  template <class Handle, class Message>
  void tell(const Handle& to, const Message& m) {
#if CAF_MAJOR_VERSION < 1
    send(caf::actor_cast<caf::strong_actor_ptr>(to), retry_on_bad_alloc([&] { return caf::make_message(m); }));
#else
    tell_from_outside(to, m);
#endif
  }

private:
  void send(const caf::strong_actor_ptr& to, const caf::message& m);
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// A failed request as CAF carries it, and back. Foreign errors (an actor that is gone) become `device_failed`.
[[nodiscard]] caf::error to_caf(const error& e);
[[nodiscard]] error from_caf(const caf::error& e);
/// No answer of an actor, but the news that it has ended.
[[nodiscard]] bool is_gone(const caf::error& e);
/// What an actor that ends answers to what it had not answered yet.
[[nodiscard]] inline caf::error gone() {
  return caf::sec::request_receiver_down;
}

/// An answer that an actor owes, to the message that it handles. The asker hears that the actor is gone where it is
/// never given: because its state ended, or because an exception passed. CAF 0.17 would leave them waiting.
template <class Answer>
class pending_response {
public:
  /// @pre in a handler of `self`'s, and the only one for its message
  template <class Self>
  explicit pending_response(Self* self) : promise_(self->template make_response_promise<Answer>()) {}
  pending_response(pending_response&&) noexcept = default;
  pending_response& operator=(pending_response&& other) noexcept {
    break_promise();
    promise_ = std::move(other.promise_);
    return *this;
  }
  ~pending_response() { break_promise(); }

  /// What the handler returns.
  [[nodiscard]] caf::typed_response_promise<Answer> promise() const { return promise_; }
  /// Once.
  void deliver(const Answer& answer) {
    retry_on_bad_alloc([&] { promise_.deliver(Answer(answer)); });
  }
  void deliver(const caf::error& failure) {
    retry_on_bad_alloc([&] { promise_.deliver(caf::error(failure)); });
  }

private:
  void break_promise() noexcept {
    try {
      if (promise_.pending())
        deliver(gone());
    } catch (...) { // no memory for a second: there is nothing left to try
    }
  }

  caf::typed_response_promise<Answer> promise_;
};

/// Thrown by `ask_and_wait` when the actor that was asked has ended.
class member_gone : public error {
public:
  using error::error;
};

/// What CAF says of an exit reason, for people.
[[nodiscard]] std::string render(const caf::error& reason);

/// The part of a stateful actor that those who wait for its end need. CAF 1.x reports the end of an actor before
/// it calls `on_exit`, so when the state still holds its leases.
class stateful_actor_base {
public:
  /// Done when the state is destroyed.
  [[nodiscard]] const event& state_gone() const noexcept { return state_gone_; }

protected:
  ~stateful_actor_base() = default;

private:
  template <class, class>
  friend class stateful_actor;
  event state_gone_ = event::make();
};

/// Done when the state of an actor is destroyed, at once for actors that are not `stateful_actor`.
template <class Handle>
[[nodiscard]] event state_gone(const Handle& of) {
  const auto* const actor = dynamic_cast<const stateful_actor_base*>(caf::actor_cast<caf::abstract_actor*>(of));
  return actor ? actor->state_gone() : event{};
}

/// An actor of a typed handle's base class that owns a state. The state dies with the actor's exit, so that everything
/// it holds (leases first) goes back even while handles to the actor live on. `end_and_wait`, `when_ended` and
/// `watcher` count an actor as ended when its state is destroyed, and its system waits for that, too.
///
/// An exception in a handler ends the actor, whose supervisor replaces it: an actor that waits for an answer to the
/// message that it handles hears that the actor is gone. A state whose work outlives it has `on_exception(error)`,
/// which is called then.
template <class Handle, class State>
class stateful_actor final : public Handle::base, public stateful_actor_base {
public:
  using super = typename Handle::base;

  template <class... Ts>
  explicit stateful_actor(caf::actor_config& config, Ts&&... arguments)
      : super(config), make_([this, args = std::make_tuple(std::forward<Ts>(arguments)...)]() mutable {
          return std::apply([this](auto&... as) { return std::make_unique<State>(this, std::move(as)...); }, args);
        }) {
    // CAF would print it to standard output, and answer nobody.
    this->set_exception_handler(
        [this](caf::scheduled_actor*, std::exception_ptr& thrown) { return handle_exception(thrown); });
  }

  const char* name() const override { return State::actor_name; }

#if CAF_MAJOR_VERSION < 1
  /// CAF counts an actor before it starts it, and goes on counting it where that fails: its system would never end.
  void launch(caf::execution_unit* unit, bool lazy, bool hide) override {
    try {
      super::launch(unit, lazy, hide);
    } catch (...) {
      this->unregister_from_system();
      const bool had_reference = !this->getf(caf::abstract_actor::is_detached_flag) || this->private_thread_ != nullptr;
      this->unsetf(caf::abstract_actor::is_detached_flag); // its end would look for the thread
      if (this->private_thread_ != nullptr) {
        delete std::exchange(this->private_thread_, nullptr);
        this->home_system().dec_detached_threads();
      }
      if (had_reference) // what was about to run it
        caf::intrusive_ptr_release(this->ctrl());
      throw;
    }
  }
#endif

  typename super::behavior_type make_behavior() override {
    state_ = make_();
    make_ = nullptr;
#if CAF_MAJOR_VERSION >= 1
    this->home_system().registry().inc_running(); // the system would not wait for `on_exit`
#endif
    return state_->behaviour();
  }

  void on_exit() override {
    [[maybe_unused]] const bool had_state = state_ != nullptr;
    state_.reset();
    state_gone_.complete();
    super::on_exit();
#if CAF_MAJOR_VERSION >= 1
    if (had_state)
      this->home_system().registry().dec_running();
#endif
  }

private:
  caf::error handle_exception(const std::exception_ptr& thrown) {
    const error why = retry_on_bad_alloc([&] { return error_of(thrown); });
    if constexpr (requires(State & s) { s.on_exception(why); }) {
      if (state_)
        state_->on_exception(why);
    }
#if CAF_MAJOR_VERSION < 1
    // Where the handler owes the answer, the message has no sender any more.
    const auto* const handled = this->current_mailbox_element();
    if (handled != nullptr && handled->sender && handled->mid.is_request())
      retry_on_bad_alloc([&] {
        handled->sender->enqueue(this->ctrl(), handled->mid.response_id(), caf::make_message(gone()), this->context());
      });
#else
    auto handled = this->make_response_promise(); // else CAF answers with what this returns
    retry_on_bad_alloc([&] { handled.deliver(gone()); });
#endif
    return retry_on_bad_alloc([&] { return to_caf(why); });
  }

  std::function<std::unique_ptr<State>()> make_;
  std::unique_ptr<State> state_;
};

/// Spawns a cast member: on the system's scheduler, or (`caf::detached`) on a thread of its own. Throws `error`
/// (io_error) when the system has no thread for it, and `std::bad_alloc`.
template <class Handle, class State, caf::spawn_options Options = caf::no_spawn_options, class... Ts>
Handle spawn(caf::actor_system& system, Ts&&... arguments) {
  [[maybe_unused]] const visit visiting;
  try {
    return system.spawn<stateful_actor<Handle, State>, Options>(std::forward<Ts>(arguments)...);
  } catch (const std::system_error& e) {
    throw_no_thread(State::actor_name, e);
  }
}

/// Asks from a thread that is no actor and blocks for the answer. Throws `error` as `from_caf` gives it.
template <class Answer, class Handle, class Message>
Answer ask_and_wait(caf::actor_system& system, const Handle& to, Message&& m) {
  [[maybe_unused]] const visit visiting;
  const auto self = retry_on_bad_alloc([&] { return caf::scoped_actor{system}; });
  std::optional<Answer> answer;
  std::optional<error> failure;
  bool gone = false;
  const auto on_answer = [&](Answer& a) { answer.emplace(std::move(a)); };
  const auto on_error = [&](caf::error& e) {
    failure.emplace(from_caf(e));
    gone = is_gone(e);
  };
#if CAF_MAJOR_VERSION < 1
  self->request(to, caf::infinite, std::forward<Message>(m)).receive(on_answer, on_error);
#else
  self->mail(std::forward<Message>(m)).request(to, caf::infinite).receive(on_answer, on_error);
#endif
  if (gone)
    throw member_gone(failure->code(), failure->what());
  if (failure)
    throw error(*failure);
  return std::move(*answer);
}

/// Asks an actor to end, from a thread that is no actor, and blocks until it has, and its state is destroyed. Does
/// nothing for an empty handle.
template <class Handle>
void end_and_wait(caf::actor_system& system, const Handle& to) {
  if (!to)
    return;
  [[maybe_unused]] const visit visiting;
  retry_on_bad_alloc([&] {
    caf::scoped_actor self{system};
    send_exit(to);
    self->wait_for(to);
  });
  state_gone(to).wait();
}

/// Calls `f` once `of` ended and its state is destroyed (at once when it had ended already), on a thread of the actor
/// system: it must be quick and must not throw. For clients that are no actors.
template <class Handle, class F>
void when_ended(const Handle& of, F f) {
  caf::actor_cast<caf::actor>(of)->attach_functor(
      [gone = state_gone(of), f = std::move(f)](const caf::error&) { gone.then(f); });
}

/// Tells an actor when others end. Lives in the state of the actor that watches; calls come as its messages do.
class watcher {
public:
  using gone_callback = std::function<void(const caf::error& reason)>;

  /// Calls `gone` in `self` once `other` ended and its state is destroyed: at once when it had ended already. Once per
  /// call.
  template <class Self>
  void watch(Self* self, const caf::actor& other, gone_callback gone) {
#if CAF_MAJOR_VERSION < 1
    if (!std::exchange(handles_down_, true))
      self->set_down_handler([this](caf::down_msg& down) {
        const auto of_source = watched_.equal_range(down.source);
        std::vector<gone_callback> due;
        for (auto it = of_source.first; it != of_source.second; ++it)
          due.push_back(std::move(it->second));
        watched_.erase(of_source.first, of_source.second);
        for (const auto& call : due)
          call(down.reason);
      });
    const bool is_new = !watched_.contains(other.address());
    watched_.emplace(other.address(), std::move(gone));
    if (is_new)
      self->monitor(other);
#else
    const auto call = std::make_shared<gone_callback>(std::move(gone));
    self->monitor(other, [self, call, state = state_gone(other)](const caf::error& reason) {
      if (state.done())
        return (*call)(reason);
      state.then([me = caf::weak_actor_ptr(self->ctrl()), call, reason] {
        if (const auto watching = me.lock())
          retry_on_bad_alloc([&] {
            caf::anon_mail(caf::make_action([call, reason] {
              (*call)(reason);
            })).send(caf::actor_cast<caf::actor>(watching));
          });
      });
    });
#endif
  }

private:
#if CAF_MAJOR_VERSION < 1
  bool handles_down_ = false;
  std::multimap<caf::actor_addr, gone_callback> watched_;
#endif
};

/// A system for one runtime: few threads, because the cast's actors only pass messages, and one shared queue, because
/// idle threads of the work-stealing scheduler poll, which costs up to 10 ms per message.
class system {
public:
  system();
  ~system();
  [[nodiscard]] caf::actor_system& get() noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla::cast
