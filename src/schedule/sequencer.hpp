/// Decides what the next step computes: the queue of requests and the state machine of the one that is active.
///
/// No actors, no devices: it is told what happened and says what to do. One thread.
#pragma once

#include "src/model/llama.hpp"
#include "src/model/tokenizer.hpp"
#include "src/schedule/reply_sink.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

namespace tropilla {

using request_id = std::uint64_t;

struct sequence_request {
  request_id id = 0;
  std::vector<token_id> prompt;
  generation_options options;
  bool score = false; ///< logits at every position instead of a reply
  std::shared_ptr<reply_sink> sink;
  std::chrono::steady_clock::time_point submitted;
};

/// What a step cost, in seconds.
struct step_times {
  double compute = 0; ///< the device was busy
  double load = 0;    ///< weights were being read, since the step before ended
};

/// Throws `error`: invalid_argument (no prompt, ids out of range, impossible sampling), context_full.
void check_request(const sequence_request& request, std::size_t vocabulary, std::size_t context);

/// One sequence at a time over one table of KV pages. The pages keep the last sequence, so that a prompt that begins
/// alike (the next turn of a conversation) skips what is there.
class sequencer {
public:
  using clock = std::chrono::steady_clock;

  /// `pages` are the starts of the KV pages, enough for `shape.context` tokens.
  sequencer(const tokenizer& tok, run_shape shape, std::vector<std::byte*> pages);

  /// @pre checked by `check_request`.
  void submit(sequence_request request);
  /// Ends a request that is queued or active; unknown ids are ignored (the reply may have ended meanwhile).
  void cancel(request_id id);
  /// Fails everything that is queued or active.
  void fail_all(const error& why);

  /// The next step, or null when there is nothing to compute now. At most one is out at a time: nothing is returned
  /// until `step_done` or `step_failed`.
  [[nodiscard]] std::shared_ptr<const step> next_step(clock::time_point now);

  /// What to do with the logits of a step.
  struct after_step {
    bool sample = false; ///< draw one token from the last row and report it with `sampled`
    sampling_options sampling;
    std::uint64_t draw_index = 0;
  };
  [[nodiscard]] after_step step_done(std::span<const float> logits, const step_times& times, clock::time_point now);
  void step_failed(const error& why);
  /// The drawn token; -1 fails the request (no finite logits).
  void sampled(token_id token, clock::time_point now);
  /// The client of a scored sequence is done with the logits of its last step.
  void logits_consumed(request_id id, clock::time_point now);

  [[nodiscard]] bool idle() const noexcept { return !active_ && queue_.empty(); }

private:
  struct sequence;

  void activate(clock::time_point now);
  void finish(finish_reason reason, clock::time_point now);
  void emit(token_id token);

  const tokenizer& tokenizer_;
  run_shape shape_;
  std::shared_ptr<const std::vector<std::byte*>> pages_; ///< shared with the steps that are out
  std::vector<token_id> cached_;                         ///< tokens whose keys and values the pages hold
  std::deque<sequence_request> queue_;
  std::unique_ptr<sequence> active_;
  bool step_out_ = false;

public:
  ~sequencer();
};

} // namespace tropilla
