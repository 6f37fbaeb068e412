/// The state that the scheduler keeps for a request and for each sequence that it generates.
#pragma once

#include "src/model/page_store.hpp"
#include "src/model/tokenizer.hpp"
#include "src/sampling/stop_matcher.hpp"
#include "src/sampling/token_history.hpp"
#include "src/schedule/kv_pages.hpp"
#include "src/schedule/reply_sink.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
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
  /// Set by the client, on any thread, when it wants no more. Null: it always does.
  std::shared_ptr<std::atomic<bool>> abandoned{};
  std::shared_ptr<const void> memory{}; ///< of the runtime's room for requests, until the request ends
};

/// Limits that requests are checked against, in tokens.
struct request_limits {
  std::size_t vocabulary = 0;
  std::size_t context = 0;         ///< of a sequence, as the model was opened
  std::size_t trained_context = 0; ///< the longest that the model can be opened with
};

/// Throws `error`: invalid_argument (no prompt, ids out of range, impossible options), context_full.
void check_request(const sequence_request& request, const request_limits& limits);

/// One output of a request. Waiting, it has no pages; active, it has those of the tokens that were computed.
struct sequence {
  using clock = std::chrono::steady_clock;

  /// The state that the outputs of a request share.
  struct shared_request {
    explicit shared_request(sequence_request r, std::uint64_t order_of_arrival)
        : request(std::move(r)), order(order_of_arrival) {}

    sequence_request request;
    std::uint64_t order;
    clock::time_point deadline = clock::time_point::max(); ///< for the order in which requests are served
    clock::time_point timeout = clock::time_point::max();  ///< it fails then
    std::vector<std::shared_ptr<sequence>> outputs;
    std::size_t unfinished = 1; ///< outputs
    generation_statistics stats;
    std::optional<clock::time_point> began, first_token;
    bool cancelled = false;
    std::optional<error> failure; ///< ends it at the next moment at which nothing of it is being computed
  };

  sequence(std::shared_ptr<shared_request> of, std::size_t index);

  /// Tokens that have no keys and values yet: one is decoded, more are prefilled.
  [[nodiscard]] std::size_t uncomputed_tokens() const noexcept { return tokens.size() - path.tokens; }
  [[nodiscard]] bool scored() const noexcept { return shared->request.score; }

  std::shared_ptr<shared_request> shared;
  std::size_t output_index;     ///< among the outputs of its request
  sampling_options sampling;    ///< with this output's seed
  std::vector<token_id> tokens; ///< the prompt and what was generated
  token_history history;
  std::size_t generated = 0;
  kv_pages::path path;             ///< where keys and values of the first tokens are
  std::vector<page_key> page_keys; ///< of the first full pages of `tokens`, where a store knows pages by them
  std::size_t in_step = 0;         ///< its tokens in the step in flight
  bool active = false;
  bool prefetched = false; ///< since it waits: what a store has of it
  utf8_stream text;
  stop_matcher stop;
};

[[nodiscard]] inline double in_seconds(sequence::clock::duration d) noexcept {
  return std::chrono::duration<double>(d).count();
}

/// Whether `a` is served before `b`: the higher priority first, then the earlier deadline, then the earlier arrival.
[[nodiscard]] bool goes_before(const sequence& a, const sequence& b) noexcept;

} // namespace tropilla
