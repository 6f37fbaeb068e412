/// Decides what the next step computes: the queue of requests, and the state machine of those that are active.
///
/// Continuous batching (Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022):
/// sequences join and leave between steps. A step has one token of every sequence that decodes, and tokens of prompts
/// in the rest of its `max_batch_tokens`: all of it when nothing decodes, else at most half of `max_batch_tokens`
/// (chunked prefill: Agrawal et al., "Sarathi-Serve", 2024). A scored sequence has steps of its own, in turn with the
/// steps of the others. A sequence is admitted when there are pages for its tokens; when pages run out, the sequence
/// that would be served last gives up its own and is computed again later.
///
/// The memory of KV pages comes and goes in extents: before it composes a step, the batcher asks for the extents that
/// the step lacks, and composes when all are answered; those on which nothing is go back.
///
/// Where there is a store, the full pages that a sequence gives up are saved to it before others have them, and a
/// sequence whose beginning is there is admitted when it is restored. Steps of the others go on meanwhile.
///
/// The batcher knows no actors and no devices: it is told what happened and says what to do. One thread at a time.
#pragma once

#include "src/model/page_store.hpp"
#include "src/model/step.hpp"
#include "src/schedule/move_costs.hpp"
#include "src/schedule/request_log.hpp"
#include "src/schedule/sequence.hpp"
#include "src/schedule/step_times.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>

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
  std::vector<page_number> pages;               ///< in order of position
  std::size_t tokens = 0;                       ///< that are, or will be, on them
  std::shared_ptr<const kv_page_table> table{}; ///< where these pages lie; null in tests without memory
};

/// How the memory of KV pages is cut, and where pages go that have to leave it.
struct kv_memory {
  std::size_t extent_pages = 1;
  /// By device: bytes from one page's start to the next one's. Empty in tests without memory.
  std::vector<std::size_t> page_bytes{};
  std::shared_ptr<const page_index> store{}; ///< null: what leaves is computed again
};

class batcher {
public:
  using clock = sequence::clock;

  /// `max_waiting`: requests in the queue, beyond which new ones are refused.
  batcher(const tokenizer& tok, const run_shape& shape, std::size_t max_waiting, logger log = {},
          kv_memory memory = {});
  ~batcher();

  /// @pre checked by `check_request`. Throws `error` (busy) when the queue is full.
  void submit(sequence_request request);
  /// Ends a request; unknown ids are ignored (the reply may have ended meanwhile).
  void cancel(request_id id, clock::time_point now);
  /// Fails all requests.
  void fail_all(const error& why);

  /// The next step. Null when there is nothing to compute now, when extents are asked for and not answered, when a
  /// scored client has not read the logits of the last step, or when a step is in flight: until `step_done` and, where
  /// there are tokens to draw, `drawn`, or until `step_failed`. May be computed more than once: the same bits result.
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

  /// Has pages restored on which the beginning of `tokens` lies in a store, once for each borrower. True: they are not
  /// there yet; it is to be called again when extents are answered or a move is over. False: `lend` can do no better
  /// than now.
  [[nodiscard]] bool wait_for_beginning(request_id borrower, std::span<const token_id> tokens);
  /// Lends the pages that hold the beginning of `tokens`, as far as there are any: until `give_back`, keys and values
  /// of the loan's tokens stay as they are, and any thread may read them. Asked again by the same borrower, it answers
  /// the same.
  [[nodiscard]] page_loan lend(request_id borrower, std::span<const token_id> tokens);
  /// Asks for the extents that `lend_empty` of so many tokens lacks. True: some are not answered yet; it is to be
  /// called again when they are. False: `lend_empty` can do no better than now.
  [[nodiscard]] bool wait_for_loan(std::size_t tokens);
  /// Lends pages on which nothing is, for the borrower to fill, of the extents that are held. Throws `error`:
  /// context_full when there never can be so many, busy when there are too few now, over_budget when there is no memory
  /// for them.
  [[nodiscard]] page_loan lend_empty(request_id borrower, std::size_t tokens);
  /// Takes the pages of `lend_empty` back with keys and values of `tokens`: prompts that begin with them find them from
  /// now on. Ends the loan. False: it was void, and nothing is to be found.
  [[nodiscard]] bool take_filled(request_id borrower, std::span<const token_id> tokens);
  /// Ends a loan. False: it was void (everything was forgotten meanwhile), and what was read is worth nothing.
  bool give_back(request_id borrower);

  // -- memory of KV pages ----

  /// Extents to ask memory for. Each is answered once, by `extent_granted` or `extent_refused`; an answer to what is
  /// not asked for is ignored.
  [[nodiscard]] std::vector<extent_number> take_wanted_extents() noexcept { return std::exchange(wanted_, {}); }
  /// `memory`: by device. Tests without memory pass none.
  void extent_granted(extent_number e, std::vector<lease> memory);
  /// There is no memory for it: the batcher goes on with the extents that are held, as if there were no others, and
  /// asks again when at most one sequence is active. A request that needs more, alone, fails with over_budget.
  void extent_refused(extent_number e, std::string why);
  /// Answers are lost, because a scheduler ended: what is asked for and not answered is wanted again.
  void extents_lost();

  /// Sets how many pages may have memory, in whole extents; all at first. Above a lower limit, the batcher hands out no
  /// more extents, admits no sequence beside others, and gives up, between steps, what is cached. `by_force`: it also
  /// preempts sequences, those that are served last first, until it is within the limit.
  void set_page_limit(std::size_t pages, bool by_force = false);
  /// Whether the extents that are held and asked for are within the limit.
  [[nodiscard]] bool within_page_limit() const noexcept { return pages_.held() + pages_.asked() <= pages_.limit(); }
  /// Whether the only active sequence waits for a higher limit: it has no page for its next token, and memory was not
  /// refused.
  [[nodiscard]] bool wants_pages() const noexcept { return waits_for_pages_; }
  /// The limit can't rise: the sequence that waits for it fails with `why` at the next `next_step`.
  void no_more_pages(const error& why);
  /// Entry n-1: the pages that the first n sequences need to run for `horizon` more tokens each, the first of them for
  /// `first_horizon`; those that are active, then those that wait, as many as a step may have. Pages that they share
  /// count once.
  [[nodiscard]] std::vector<std::size_t> page_demand(std::size_t first_horizon, std::size_t horizon) const;
  /// Pages that can't be given up without taking some from a sequence or a loan.
  [[nodiscard]] std::size_t pages_held_by_use() const noexcept {
    return pages_.extents_in_use() * pages_.extent_pages();
  }
  /// Pages that there may be.
  [[nodiscard]] std::size_t pages() const noexcept { return pages_.size(); }
  [[nodiscard]] std::size_t pages_of_context() const noexcept { return kv_pages_for(shape_.context); }
  /// The pages of an extent: the last one may have fewer.
  [[nodiscard]] std::size_t pages_of(extent_number e) const noexcept { return pages_.pages_of(e); }
  /// Pages by which the limit would have to rise for `lend_empty` of so many tokens; 0 also where it never can.
  [[nodiscard]] std::size_t pages_missing_for_loan(std::size_t tokens) const noexcept;
  /// Gives up cached extents until so many bytes are given back, of the device whose pages have most. Returns how many
  /// are.
  std::size_t give_back_cached(std::size_t bytes);
  /// Nothing was asked for a while: gives up what only later requests may need, as far as it can be had again.
  void idle_for_a_while();

  // -- moves between pages and the store ----

  /// The next move to carry out, until `move_started`; null: none. `next_step` is to be called when one is over.
  [[nodiscard]] std::shared_ptr<page_move> wanted_move() const noexcept {
    return wanted_moves_.empty() ? nullptr : wanted_moves_.front();
  }
  /// The mover has the wanted move, which will be over some time.
  void move_started() noexcept { wanted_moves_.pop_front(); }
  /// Whether there is something to compute, but only when pages are saved or restored.
  [[nodiscard]] bool waits_for_moves() const noexcept { return !moves_.empty() && !computing_ && !done_ && !idle(); }
  /// Whether a move is over that `next_step` has not looked at.
  [[nodiscard]] bool has_ended_moves() const noexcept {
    return std::ranges::any_of(moves_, [](const open_move& m) { return m.move->over.load(); });
  }

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
  /// A move that is not over, or was not yet when it was looked at. Its path keeps the pages in use.
  struct open_move {
    std::shared_ptr<page_move> move;
    kv_pages::path path{};
    sequence_ptr of{}; ///< waits for what is restored; null: nobody does
    bool is_void = false;
  };
  /// What the next step could use.
  struct step_needs {
    std::size_t pages = 0;      ///< that are free now
    std::size_t admissions = 0; ///< of sequences that wait
  };
  void void_loans();
  void settle_endings(clock::time_point now);
  [[nodiscard]] static bool busy_with(const shared_request& r);
  void end_request(const std::shared_ptr<shared_request>& r, clock::time_point now);
  [[nodiscard]] bool can_admit(const sequence& s, const kv_pages::beginning& found, std::size_t active,
                               std::size_t available) const;
  void admit(std::size_t count, clock::time_point now);
  void activate(const sequence_ptr& s, clock::time_point now, std::optional<kv_pages::path> restored = {});
  void deactivate(const sequence_ptr& s);
  [[nodiscard]] std::span<const page_key> keys_of(sequence& s, std::size_t tokens) const;
  std::shared_ptr<page_move> start_move(page_move::direction way, open_move m, std::span<const token_id> tokens,
                                        std::span<const page_key> keys, std::size_t first);
  void save(const sequence_ptr& s);
  [[nodiscard]] std::size_t restorable(sequence& s, std::size_t pages) const;
  [[nodiscard]] bool is_restoring(page_key key) const;
  [[nodiscard]] bool is_restoring(const sequence_ptr& s) const;
  [[nodiscard]] std::shared_ptr<page_move> start_restore(std::span<const token_id> tokens,
                                                         std::span<const page_key> keys, const sequence_ptr& of);
  void prefetch(std::set<sequence_ptr, before>::const_iterator first);
  void settle_moves(clock::time_point now);
  void end_move(open_move& m, clock::time_point now);
  void void_moves();
  [[nodiscard]] bool saving() const;
  [[nodiscard]] std::size_t restoring() const;
  void preempt(const sequence_ptr& s);
  void preempt_or_fail(const sequence_ptr& s);
  [[nodiscard]] step_needs needs_of_next_step(bool admits) const;
  [[nodiscard]] static std::span<const token_id> findable(const sequence& s);
  [[nodiscard]] bool wait_for_extents(std::size_t pages);
  void keep_page_limit();
  void give_back_empty();
  void given_up(std::span<const extent_number> extents);
  [[nodiscard]] std::shared_ptr<const kv_page_table> table_of(std::span<const page_number> pages) const;
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
  kv_memory memory_;
  kv_pages pages_;
  std::shared_ptr<kv_page_table> table_; ///< null in tests without memory
  std::vector<extent_number> wanted_;    ///< asked for, and not taken
  std::set<extent_number> unanswered_;   ///< asked for
  bool step_asked_ = false;              ///< extents for the next step, which has not been composed since
  bool loan_asked_ = false;              ///< extents for a loan, which has not been asked for again since
  bool by_force_ = false;                ///< the limit
  bool tried_again_ = false;             ///< to get memory that was refused, for the next step
  bool waits_for_pages_ = false;         ///< the only active sequence
  std::vector<open_move> moves_;
  std::map<request_id, std::shared_ptr<page_move>> beginnings_; ///< that borrowers wait for; null: not started
  std::deque<std::shared_ptr<page_move>> wanted_moves_;         ///< of these, not started
  move_costs costs_;
  clock::time_point now_{}; ///< of the last look
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
