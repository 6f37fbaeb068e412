/// The requests that an actor answers later.
#pragma once

#include "actors/caf_seam.hpp"

#include <deque>
#include <utility>

namespace tropilla::cast {

/// Requests of one kind without an answer, in the order in which they came. Lives in the state of the actor that was
/// asked; when that ends, the askers of those that are left hear that it is gone.
template <class Request, class Answer>
class open_requests {
public:
  /// Keeps the message that is being handled, and returns what its handler returns. @pre in a handler of `self`'s
  template <class Self>
  caf::typed_response_promise<Answer> add(Self* self, const Request& m) {
    return open_.emplace_back(entry{m, pending_response<Answer>(self)}).promise.promise();
  }
  [[nodiscard]] bool empty() const noexcept { return open_.empty(); }
  /// @pre there is one
  [[nodiscard]] const Request& first() const { return open_.front().request; }
  /// Answers the first with an `Answer` or a `caf::error`. The request is gone before. @pre there is one
  template <class Result>
  void answer_first(const Result& answer) {
    auto promise = std::move(open_.front().promise);
    open_.pop_front();
    promise.deliver(answer);
  }
  /// Answers those for which `which(request)` is true.
  template <class Result, class Which>
  void answer_if(const Result& answer, Which which) {
    for (auto& each : std::exchange(open_, {}))
      if (which(each.request))
        each.promise.deliver(answer);
      else
        open_.push_back(std::move(each));
  }
  template <class Result>
  void answer_all(const Result& answer) {
    answer_if(answer, [](const Request&) { return true; });
  }

private:
  struct entry {
    Request request;
    pending_response<Answer> promise;
  };
  std::deque<entry> open_;
};

} // namespace tropilla::cast
