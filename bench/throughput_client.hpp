/// The clients of bench_throughput: they submit requests and record what came of each, with the time of every token.
#pragma once

#include "tropilla/runtime.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tropilla::bench {

using json = nlohmann::ordered_json;
using bench_clock = std::chrono::steady_clock;

/// The request of a client.
struct request {
  std::vector<token_id> prompt;
  std::size_t tokens = 0; ///< of the reply: it never ends by itself
  double at = 0;          ///< when it is submitted, seconds from the beginning
  sampling_options sampling{};
};

/// The outcome of a request. Seconds from the crowd's beginning. Belongs to the runtime's callbacks until `ended`.
struct record {
  double submitted = 0;
  std::vector<double> times; ///< of each token
  std::vector<token_id> ids;
  std::string text;
  std::optional<error> failure;
  generation_statistics cost;  ///< of one that finished
  std::size_t leave_after = 0; ///< tokens, after which the client is gone; 0: it stays
  std::atomic<bool> ended = false;
};

/// All clients of one measurement: submits, and waits for replies. Outlives the runtime's use of it, so it is waited
/// for before it goes. Any thread.
class crowd {
public:
  explicit crowd(runtime& rt) : runtime_(rt), began_(bench_clock::now()) {}

  /// Submits a request now, whatever `at` says. Throws as `runtime::submit`. The ticket goes into `ticket` where that
  /// is not null.
  std::shared_ptr<record> submit(const request& r, std::size_t leave_after = 0,
                                 std::optional<reply_ticket>* ticket = nullptr);
  /// Submits each request at its time; returns when the last was submitted.
  std::vector<std::shared_ptr<record>> submit_all(const std::vector<request>& requests);
  /// Waits until at most so many replies have not ended.
  void wait(std::size_t open = 0);
  /// As `wait`, until `end` seconds from the beginning at most; false: it was over first.
  [[nodiscard]] bool wait_until(double end, std::size_t open);

  /// Endings that came, one for each request unless the runtime broke its promise.
  [[nodiscard]] std::size_t endings() const;
  [[nodiscard]] double now() const { return std::chrono::duration<double>(bench_clock::now() - began_).count(); }

private:
  void ended(record& r);
  /// The moment so many seconds from the beginning.
  [[nodiscard]] bench_clock::time_point at(double seconds) const {
    return began_ + std::chrono::duration_cast<bench_clock::duration>(std::chrono::duration<double>(seconds));
  }

  runtime& runtime_;
  bench_clock::time_point began_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t submitted_ = 0; ///< these two under the mutex
  std::size_t endings_ = 0;
};

/// `count` requests with random prompts of 32 to 512 tokens and replies of 16 to 256, at once or, with a rate, as a
/// Poisson process of so many per second. The same seed gives the same ones everywhere; prompts and replies do not
/// depend on the rate.
[[nodiscard]] std::vector<request> make_requests(std::size_t count, double rate, std::uint64_t seed,
                                                 std::size_t vocabulary);
/// Random ids, the same for the same seed.
[[nodiscard]] std::vector<token_id> random_ids(std::size_t count, std::uint64_t seed, std::size_t vocabulary);

[[nodiscard]] json to_json(const std::vector<request>& requests);
/// Throws `error` (invalid_argument) for what is no list of requests.
[[nodiscard]] std::vector<request> read_requests(const std::string& path);

/// Options for a request that never ends by itself.
[[nodiscard]] generation_options options_for(const request& r);

} // namespace tropilla::bench
