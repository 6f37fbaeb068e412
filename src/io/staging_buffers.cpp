// Implements staging buffers: places that take turns, places that stay, and the stream that copies.
#include "src/io/staging_buffers.hpp"

#include <fmt/format.h>
#include <utility>

namespace tropilla {
namespace {

constexpr std::size_t in_turn = 2;

} // namespace

std::size_t staging_buffers::buffer_bytes(const sizes& s) noexcept {
  return s.beside + in_turn * s.largest;
}

staging_buffers::staging_buffers(device& dev, const sizes& s, std::shared_ptr<std::byte> buffer,
                                 std::function<void()> freed, std::function<void(std::string_view)> notice)
    : dev_(dev), kept_bytes_(s.kept), freed_(std::move(freed)), notice_(std::move(notice)), buffer_(std::move(buffer)) {
  for (std::size_t i = 0; i < in_turn; ++i)
    free_.push_back(buffer_.get() + s.beside + i * s.largest);
  stream_ = dev.make_stream("upload");
}

std::shared_ptr<staging_buffers::place> staging_buffers::take(std::size_t group, std::size_t bytes, bool stays) {
  if (stays)
    if (auto kept = take_kept(group, bytes))
      return kept;
  const std::lock_guard lock(mutex_);
  if (free_.empty())
    return nullptr;
  auto p = std::make_shared<place>();
  p->memory = free_.back();
  free_.pop_back();
  return p;
}

/// Groups come in a circle: each is as far away as any other when it has gone. So the groups that come first stay.
std::shared_ptr<staging_buffers::place> staging_buffers::take_kept(std::size_t group, std::size_t bytes) {
  using enum place::content;
  if (const auto it = kept_.find(group); it != kept_.end()) {
    auto has = none; // after a failure
    if (it->second->has.compare_exchange_strong(has, on_its_way) || has == complete)
      return it->second;
    return nullptr; // it is on its way for another loader, and is not waited for
  }
  if (bytes > kept_bytes_)
    return nullptr;
  auto p = std::make_shared<place>();
  try {
    p->own = dev_.make_host_buffer(bytes);
  } catch (const error& e) {
    kept_bytes_ = 0;
    if (notice_)
      notice_(fmt::format("no more streamed weights are pinned, the others are read for every step: {}", e.what()));
    return nullptr;
  }
  p->memory = p->own.get();
  kept_bytes_ -= bytes;
  kept_[group] = p;
  return p;
}

bool staging_buffers::any_free() const {
  const std::lock_guard lock(mutex_);
  return !free_.empty();
}

void staging_buffers::deliver(std::shared_ptr<place> from, std::byte* to, std::size_t bytes, bool failed,
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
      from->has = failed ? place::content::none : place::content::complete;
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
