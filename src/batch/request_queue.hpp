/// Reads, parses and tokenises requests ahead of the batch loop, a bounded number of them.
///
/// The feeder works on it, and it outlives the feeder: the feeder that takes over goes on where it stood. One thread at
/// a time.
#pragma once

#include "src/batch/journal.hpp"
#include "src/batch/request.hpp"

#include <deque>

namespace tropilla {

struct request_queue_setup {
  int input = 0; ///< stays the caller's
  std::string name;
  line_set done{}; ///< lines to pass over
  generation_options defaults{};
  prompt_encoder encode;
  std::size_t max_requests = 64;                 ///< that are read ahead
  std::size_t max_bytes = std::size_t{32} << 20; ///< of their text and ids, beyond which no more are read
  std::size_t longest_line = longest_batch_line;
  std::size_t max_values = std::size_t{1} << 24; ///< as `parse_batch_request`
};

class request_queue {
public:
  explicit request_queue(request_queue_setup setup)
      : setup_(std::move(setup)), reader_(setup_.input, setup_.name, setup_.longest_line) {}

  /// The next request that was read; empty: none.
  [[nodiscard]] std::optional<batch_request> take();
  /// Does some work towards the next request: at most one is added, or one block read. False: the input has nothing for
  /// now, after waiting at most `milliseconds` for it. Throws `error` (io_error), and whatever `encode` throws that is
  /// no `error`: the next call, maybe by the feeder that takes over, tries that line again.
  bool read_on(int milliseconds);
  [[nodiscard]] bool full() const noexcept {
    return ready_.size() >= setup_.max_requests || bytes_ >= setup_.max_bytes;
  }
  [[nodiscard]] bool empty() const noexcept { return ready_.empty(); }
  /// Whether all of the input was read; requests that are ready may still be taken.
  [[nodiscard]] bool input_ended() const noexcept { return !line_ && reader_.ended(); }

private:
  void add(const input_line& line);

  request_queue_setup setup_;
  line_reader reader_;
  std::optional<input_line> line_; ///< being worked on
  std::deque<batch_request> ready_;
  std::size_t bytes_ = 0;
  std::uint64_t passed_ = 0; ///< bytes since the last request
};

} // namespace tropilla
