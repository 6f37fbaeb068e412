/// The work of `tropilla batch`: requests go from a feeder into the runtime, and records come out as replies end.
#pragma once

#include "src/batch/request_queue.hpp"
#include "tropilla/runtime.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace tropilla::app {

/// The work that is done so far.
struct batch_totals {
  std::size_t requests = 0; ///< with a record
  std::size_t failed = 0;   ///< of them, with an error
  std::string failure;      ///< the first of these errors, with its line
  std::size_t prompt_tokens = 0;
  std::size_t output_tokens = 0;
  std::uint64_t passed_bytes = 0; ///< of the input: had been done before, or blank
  std::uint64_t done_bytes = 0;   ///< of the input: done now
};

struct batch_work {
  std::shared_ptr<request_queue> queue;
  std::size_t in_flight = 0;                   ///< requests that the runtime has at once, waiting ones included
  std::size_t context = 0;                     ///< tokens of a sequence
  std::size_t max_bytes = ~std::size_t{0};     ///< of requests, their replies and records
  bool ordered = false;                        ///< records in the order of the input
  std::function<void(std::string_view)> write; ///< a record; may throw
  std::function<void(const batch_totals&)> on_progress{}; ///< now and then
};

/// The loop of a batch. It runs on the calling thread; everything else reaches it through one queue.
class batch_loop {
public:
  batch_loop(runtime& rt, batch_work work);
  ~batch_loop();
  batch_loop(const batch_loop&) = delete;
  batch_loop& operator=(const batch_loop&) = delete;

  /// Runs until the input's end, or until `stop`: then requests that are being computed are cancelled, and it returns
  /// false. Throws what `write` throws, and `error` when the input can't be read or the runtime can't go on.
  [[nodiscard]] bool run();
  /// Any thread.
  void stop();
  [[nodiscard]] const batch_totals& totals() const noexcept;

private:
  class impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla::app
