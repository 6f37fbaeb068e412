// Talks to the kernel through liburing.
#include "src/io/uring_queue.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <thread>

namespace tropilla {
namespace {

constexpr std::size_t longest_call = std::size_t{1} << 30; // the kernel cuts calls at 2 GiB - 4 KiB; stay aligned

unsigned length_of(std::size_t bytes) noexcept {
  return static_cast<unsigned>(std::min(bytes, longest_call));
}

} // namespace

uring_queue::uring_queue(std::size_t depth) {
  if (const int rc = io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0); rc < 0)
    throw error(errc::io_error, fmt::format("the kernel refuses io_uring: {}", std::strerror(-rc)));
}

uring_queue::~uring_queue() {
  io_uring_queue_exit(&ring_);
}

io_uring_sqe* uring_queue::next_entry() noexcept {
  ++in_flight_;
  return io_uring_get_sqe(&ring_); // never null: as many entries as calls in flight
}

void uring_queue::read(std::size_t number, int descriptor, std::byte* into, std::size_t bytes,
                       std::uint64_t offset) noexcept {
  auto* const entry = next_entry();
  io_uring_prep_read(entry, descriptor, into, length_of(bytes), offset);
  io_uring_sqe_set_data64(entry, number);
}

void uring_queue::write(std::size_t number, int descriptor, const std::byte* from, std::size_t bytes,
                        std::uint64_t offset) noexcept {
  auto* const entry = next_entry();
  io_uring_prep_write(entry, descriptor, from, length_of(bytes), offset);
  io_uring_sqe_set_data64(entry, number);
}

void uring_queue::submit() noexcept {
  io_uring_submit(&ring_);
}

uring_queue::result uring_queue::wait() {
  for (;;) {
    submit_the_rest();
    io_uring_cqe* cqe = nullptr;
    const int rc = io_uring_wait_cqe(&ring_, &cqe);
    if (rc == -EINTR || rc == -EAGAIN)
      continue;
    if (rc < 0)
      throw error(errc::io_error, fmt::format("io_uring can't wait: {}", std::strerror(-rc)));
    const result r{static_cast<std::size_t>(cqe->user_data), cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    --in_flight_;
    return r;
  }
}

/// Submits the calls that the kernel has not taken. If it has none, there is nothing to wait for, and it is asked again
/// for a second.
void uring_queue::submit_the_rest() {
  constexpr std::chrono::milliseconds pause{1};
  for (std::chrono::milliseconds waited{0}; io_uring_sq_ready(&ring_) > 0; waited += pause) {
    const int rc = io_uring_submit(&ring_);
    if (rc >= 0 || in_flight_ > io_uring_sq_ready(&ring_))
      return;
    if (waited >= std::chrono::seconds(1))
      throw error(errc::io_error, fmt::format("the kernel takes nothing from io_uring: {}", std::strerror(-rc)));
    std::this_thread::sleep_for(pause);
  }
}

} // namespace tropilla
