// Implements staging buffers: those that take turns, those that are a cache, and the stream that copies.
#include "src/io/staging_buffers.hpp"

#include <fmt/format.h>
#include <utility>

namespace tropilla {
namespace {

constexpr std::size_t in_turn = 2;

} // namespace

std::size_t staging_buffers::pinned_bytes(const sizes& s) noexcept {
  return s.read_buffers + in_turn * s.largest;
}

staging_buffers::staging_buffers(device& dev, const sizes& s, std::shared_ptr<std::byte> pinned,
                                 std::function<void()> freed, std::function<void(std::string_view)> notice)
    : dev_(dev), cached_bytes_(s.cached), freed_(std::move(freed)), notice_(std::move(notice)),
      pinned_(std::move(pinned)) {
  for (std::size_t i = 0; i < in_turn; ++i)
    free_.push_back(pinned_.get() + s.read_buffers + i * s.largest);
  stream_ = dev.make_stream("upload");
}

std::shared_ptr<staging_buffers::buffer> staging_buffers::take(std::size_t group, std::size_t bytes, bool stays) {
  if (stays)
    if (auto cached = take_cached(group, bytes))
      return cached;
  const std::lock_guard lock(mutex_);
  if (free_.empty())
    return nullptr;
  auto p = std::make_shared<buffer>();
  p->memory = free_.back();
  free_.pop_back();
  return p;
}

/// Streamed groups come round and round: each is as far away as any other when it has gone. So the groups that come
/// first stay.
std::shared_ptr<staging_buffers::buffer> staging_buffers::take_cached(std::size_t group, std::size_t bytes) {
  using enum buffer::content;
  if (const auto it = cached_.find(group); it != cached_.end()) {
    auto has = none; // after a failure
    if (it->second->has.compare_exchange_strong(has, in_flight) || has == complete)
      return it->second;
    return nullptr; // it is on its way for another loader, and is not waited for
  }
  if (bytes > cached_bytes_)
    return nullptr;
  auto p = std::make_shared<buffer>();
  try {
    p->own = dev_.make_host_buffer(bytes);
  } catch (const error& e) {
    cached_bytes_ = 0;
    if (notice_)
      notice_(fmt::format("no more streamed weights are pinned, the others are read for every step: {}", e.what()));
    return nullptr;
  }
  p->memory = p->own.get();
  cached_bytes_ -= bytes;
  cached_[group] = p;
  return p;
}

bool staging_buffers::any_free() const {
  const std::lock_guard lock(mutex_);
  return !free_.empty();
}

void staging_buffers::deliver(std::shared_ptr<buffer> from, std::byte* to, std::size_t bytes, bool failed,
                              delivered done) {
  stream_->enqueue([this, from = std::move(from), to, bytes, failed, done = std::move(done)] {
    using clock = std::chrono::steady_clock;
    const auto began = clock::now();
    std::optional<error> why;
    try {
      if (!failed)
        dev_.upload(from->memory, to, bytes);
    } catch (const error& e) {
      why = e;
    }
    if (from->own) {
      from->has = failed ? buffer::content::none : buffer::content::complete;
    } else {
      {
        const std::lock_guard lock(mutex_);
        free_.push_back(from->memory);
      }
      freed_();
    }
    done(why ? &*why : nullptr, clock::now() - began);
  });
}

} // namespace tropilla
