/// Logs what happens to requests, and how busy the batch is.
#pragma once

#include "src/log/log.hpp"
#include "src/schedule/sequence.hpp"

#include <cstddef>
#include <string_view>

namespace tropilla {

/// How full a batch is.
struct batch_usage {
  std::size_t active = 0;
  std::size_t waiting = 0;
  std::size_t pages_in_use = 0;
  std::size_t pages_cached = 0; ///< not in use, but found by prompts that begin alike
  std::size_t preemptions = 0;  ///< so far
  std::size_t requests = 0;     ///< that were accepted so far
};

/// Writes a record for each thing that happens to a request (debug; warning when it fails), and, while steps are
/// computed, one every ten seconds for all of them together (info). The batcher calls it; one thread at a time.
class request_log {
public:
  using clock = sequence::clock;
  using shared_request = sequence::shared_request;

  explicit request_log(logger log) : log_(std::move(log)) {}

  /// `others`: requests that are there already.
  void accepted(const shared_request& r, std::size_t others);
  void admitted(const sequence& s, clock::time_point now) const;
  void first_token(const shared_request& r) const;
  void preempted(const sequence& s) const;
  void context_shifted(const sequence& s, std::size_t dropped) const;
  void finished(const shared_request& r) const;
  void cancelled(const shared_request& r) const;
  void failed(const shared_request& r, const error& why) const;
  /// All requests failed together.
  void all_failed(std::size_t requests, const error& why) const;
  /// A step is done: `computed` tokens have keys and values now, and `drawn` are drawn from its logits. True: `report`
  /// is due.
  [[nodiscard]] bool step_done(std::size_t computed, std::size_t drawn, clock::time_point now);
  /// Logs how busy the batch was since the last report; `usage` says how many of the `pages` are in use.
  void report(const batch_usage& usage, std::size_t pages, clock::time_point now);

private:
  logger log_;
  clock::time_point since_{}, last_step_{}; ///< of what is counted
  std::size_t computed_ = 0, drawn_ = 0;
};

} // namespace tropilla
