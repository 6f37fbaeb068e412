/// Decides what the next step computes: the queue of requests, and the state machine of those that are active.
///
/// Continuous batching (Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022):
/// sequences join and leave between steps. A step has one token of every sequence that decodes, and tokens of prompts
/// in the rest of its `max_batch_tokens`: all of it when nothing decodes, else at most half of `max_batch_tokens`
/// (chunked prefill: Agrawal et al., "Sarathi-Serve", 2024). A scored sequence has steps of its own, in turn with the
/// steps of the others. A sequence is admitted when there are pages for its tokens; when pages run out, the sequence
/// that would be served last gives up its own and is computed again later.
///
/// The batcher knows no actors and no devices: it is told what happened and says what to do. One thread at a time.
#pragma once

#include "src/model/step.hpp"
#include "src/schedule/request_log.hpp"
#include "src/schedule/sequence.hpp"
#include "src/schedule/step_times.hpp"

#include <map>
#include <set>
#include <span>

namespace tropilla {

/// A token to draw from one row of a step's logits.
struct token_draw {
  std::size_t row = 0;
  std::shared_ptr<const sequence> of; ///< its sampling, history and number of the token
};

struct drawn_token {
  token_id token = -1; ///< -1: no logit was a number
  std::vector<token_logprob> logprobs{};
};

/// KV pages that a client outside the batcher holds.
struct page_loan {
  std::vector<page_number> pages; ///< in order of position
  std::size_t tokens = 0;         ///< that are, or will be, on them
};

class batcher {
public:
  using clock = sequence::clock;

  /// `max_waiting`: requests in the queue, beyond which new ones are refused. `commit`: asked before a KV page is
  /// written to for the first time. Where it refuses, the batcher goes on with the pages that were written to before,
  /// as if there were no others; a request that needs more of them than that, alone, fails with over_budget.
  batcher(const tokenizer& tok, const run_shape& shape, std::size_t max_waiting, logger log = {},
          page_commit commit = {});
  ~batcher();

  /// @pre checked by `check_request`. Throws `error` (busy) when the queue is full.
  void submit(sequence_request request);
  /// Ends a request; unknown ids are ignored (the reply may have ended meanwhile).
  void cancel(request_id id, clock::time_point now);
  /// Fails all requests.
  void fail_all(const error& why);

  /// The next step. Null when there is nothing to compute now, when a scored client has not read the logits of the last
  /// step, or when a step is in flight: until `step_done` and, where there are tokens to draw, `drawn`, or until
  /// `step_failed`. May be computed more than once: the same bits result.
  [[nodiscard]] std::shared_ptr<const step> next_step(clock::time_point now);
  /// The step that is in flight and not computed, for the scheduler that takes over from one that ended; or null.
  [[nodiscard]] std::shared_ptr<const step> step_in_flight() const noexcept { return computing_; }
  /// Ends the computing of a step. Returns the tokens to draw from its logits; empty when there are none.
  [[nodiscard]] const std::vector<token_draw>& step_done(std::span<const float> logits, const step_times& times,
                                                         clock::time_point now);
  void step_failed(const error& why, clock::time_point now);
  /// Takes the drawn tokens, in the order of the draws.
  void drawn(std::span<const drawn_token> tokens, clock::time_point now);
  /// Notes that the logits of the last step were lost before all tokens were drawn: it has to be computed again.
  void logits_lost();
  /// Notes that the client of a scored sequence is done with the logits of its last step.
  void logits_consumed(request_id id, clock::time_point now);

  /// Lends the pages that hold the beginning of `tokens`, as far as there are any: until `give_back`, keys and values
  /// of the loan's tokens stay as they are, and any thread may read them. Asked again by the same borrower, it answers
  /// the same.
  [[nodiscard]] page_loan lend(request_id borrower, std::span<const token_id> tokens);
  /// Lends pages on which nothing is, for the borrower to fill. Throws `error`: context_full when there never can be so
  /// many, busy when there are too few now, over_budget when there is no memory for them.
  [[nodiscard]] page_loan lend_empty(request_id borrower, std::size_t tokens);
  /// Takes the pages of `lend_empty` back with keys and values of `tokens`: prompts that begin with them find them from
  /// now on. Ends the loan. False: it was void, and nothing is to be found.
  [[nodiscard]] bool take_filled(request_id borrower, std::span<const token_id> tokens);
  /// Ends a loan. False: it was void (everything was forgotten meanwhile), and what was read is worth nothing.
  bool give_back(request_id borrower);

  /// When `next_step` should be called at the latest, for a request's timeout.
  [[nodiscard]] std::optional<clock::time_point> next_timeout() const;
  [[nodiscard]] bool idle() const noexcept { return requests_.empty(); }
  [[nodiscard]] batch_usage usage() const noexcept;

private:
  using shared_request = sequence::shared_request;
  using sequence_ptr = std::shared_ptr<sequence>;
  struct before {
    bool operator()(const sequence_ptr& a, const sequence_ptr& b) const noexcept { return goes_before(*a, *b); }
  };

  struct open_loan {
    kv_pages::path path;
    std::size_t tokens = 0;
    bool is_void = false;
  };
  void void_loans();
  void settle_endings(clock::time_point now);
  [[nodiscard]] static bool busy_with(const shared_request& r);
  void end_request(const std::shared_ptr<shared_request>& r, clock::time_point now);
  void admit(clock::time_point now);
  void activate(const sequence_ptr& s, clock::time_point now);
  void deactivate(const sequence_ptr& s);
  void preempt(const sequence_ptr& s);
  void preempt_or_fail(const sequence_ptr& s);
  [[nodiscard]] std::shared_ptr<step> compose();
  [[nodiscard]] std::shared_ptr<step> compose_scored(const sequence_ptr& s);
  [[nodiscard]] bool ensure_page(const sequence_ptr& s);
  [[nodiscard]] std::size_t tokens_with_pages(sequence& s, std::size_t tokens);
  void add_tokens(step& to, const sequence_ptr& s, std::size_t tokens);
  static void start_outputs(const std::shared_ptr<shared_request>& r);
  void end_step(clock::time_point now);
  void accept(const sequence_ptr& s, const drawn_token& drawn, clock::time_point now);
  void shift_context(const sequence_ptr& s);
  void finish(const sequence_ptr& s, piece last, finish_reason reason, clock::time_point now);
  static void send(const sequence_ptr& s, piece p);

  const tokenizer& tokenizer_;
  run_shape shape_;
  std::size_t max_waiting_;
  request_log log_;
  kv_pages pages_;
  std::map<request_id, std::shared_ptr<shared_request>> requests_;
  std::set<sequence_ptr, before> waiting_;
  std::vector<sequence_ptr> active_;        ///< in order
  std::vector<page_copy> copies_;           ///< for the next step, or the one in flight
  std::vector<sequence_ptr> active_before_; ///< while a step is composed
  std::vector<sequence_ptr> in_step_;       ///< whose tokens the step in flight has, in order
  std::shared_ptr<step> last_step_;         ///< computing_ or done_, or free for the next one
  std::shared_ptr<step> computing_;
  std::shared_ptr<step> done_; ///< computed: its tokens are being drawn
  std::vector<token_draw> draws_;
  std::map<request_id, open_loan> loans_;
  std::optional<request_id> scored_unread_; ///< the scored request whose client has yet to read its logits
  bool scored_last_ = false;
  std::uint64_t arrivals_ = 0;
  std::size_t preemptions_ = 0;
};

} // namespace tropilla
