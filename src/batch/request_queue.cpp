// Implements the queue between the input and the scheduler's queue.
#include "src/batch/request_queue.hpp"

#include "tropilla/error.hpp"

#include <utility>

namespace tropilla {
namespace {

/// Bytes that a request holds, roughly: its line was about as long as its text.
std::size_t weight(const batch_request& r) {
  std::size_t ids = 0;
  for (const auto& prompt : r.ids)
    ids += prompt.size();
  return static_cast<std::size_t>(r.bytes) + ids * sizeof(token_id);
}

} // namespace

std::optional<batch_request> request_queue::take() {
  if (ready_.empty())
    return std::nullopt;
  auto first = std::move(ready_.front());
  ready_.pop_front();
  bytes_ -= weight(first);
  return first;
}

bool request_queue::read_on(int milliseconds) {
  if (!line_)
    line_ = reader_.next();
  if (line_) {
    add(*line_);
    line_.reset();
    return true;
  }
  if (!reader_.readable(milliseconds))
    return false;
  reader_.read_some();
  return true;
}

void request_queue::add(const input_line& line) {
  if (line.blank() || setup_.done.contains(line.number)) {
    passed_ += line.bytes;
    return;
  }
  auto r = parse_batch_request(line, setup_.defaults, setup_.max_values);
  if (!r.failure) {
    try {
      for (const auto& prompt : r.prompts)
        r.ids.push_back(setup_.encode(prompt, r.special));
    } catch (const error& e) {
      r.failure = e.what();
    }
  }
  r.passed = std::exchange(passed_, 0);
  r.prompts.clear(); // their ids are all that is needed from here on
  bytes_ += weight(r);
  ready_.push_back(std::move(r));
}

} // namespace tropilla
