// Starts writes, and handles the ways in which they can end.
#include "src/io/file_writer.hpp"

#include "src/io/uring_queue.hpp"
#include "tropilla/error.hpp"

#include <cerrno>
#include <unistd.h>

namespace tropilla {

write_request pending_write::rest() const noexcept {
  auto r = request_;
  r.offset += written_;
  r.source += written_;
  r.bytes -= written_;
  return r;
}

bool pending_write::take(long result) noexcept {
  if (result == -EINTR || result == -EAGAIN)
    return false;
  if (result <= 0) {
    cause_ = result < 0 ? static_cast<int>(-result) : ENOSPC; // nothing, without a reason: as of a full disk
    return true;
  }
  written_ += static_cast<std::size_t>(result);
  return written_ >= request_.bytes;
}

file_writer::file_writer(int descriptor, std::size_t depth, io_method method)
    : descriptor_(descriptor), writes_(depth) {
  for (std::size_t i = 0; i < depth; ++i)
    free_.push_back(i);
  ended_.reserve(depth);
  if (method == io_method::pread)
    return;
  try {
    queue_ = std::make_unique<uring_queue>(depth);
  } catch (const error&) {
    if (method == io_method::uring)
      throw;
  }
}

file_writer::~file_writer() {
  try {
    while (in_flight() > 0)
      (void)wait();
  } catch (const error&) { // a broken queue: leaving it cancels what is left
  }
}

void file_writer::prepare(std::size_t slot) noexcept {
  const auto r = writes_[slot].rest();
  queue_->write(slot, descriptor_, r.source, r.bytes, r.offset);
}

void file_writer::submit(const write_request& request) noexcept {
  const auto slot = free_.back();
  free_.pop_back();
  writes_[slot] = pending_write(request);
  if (queue_) {
    prepare(slot);
    queue_->submit();
    return;
  }
  long n = 0;
  do {
    const auto r = writes_[slot].rest();
    n = ::pwrite(descriptor_, r.source, r.bytes, static_cast<off_t>(r.offset));
    if (n < 0)
      n = -errno;
  } while (!writes_[slot].take(n));
  ended_.push_back(slot);
}

write_completion file_writer::wait() {
  std::size_t slot = 0;
  if (queue_) {
    for (;;) {
      const auto [number, result] = queue_->wait();
      slot = number;
      if (writes_[slot].take(result))
        break;
      prepare(slot);
    }
  } else {
    slot = ended_.back();
    ended_.pop_back();
  }
  free_.push_back(slot);
  return writes_[slot].completion();
}

std::string_view file_writer::name() const noexcept {
  return queue_ ? "io_uring" : "pwrite";
}

} // namespace tropilla
