// Keeps one sum of promised bytes, and a bit for each chunk that was promised.
#include "memory/commitment.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {

/// Bytes that rounding to chunks adds to a plan: one chunk at each end of the pool's two sides. They count as the
/// program's needs, since a plan that fills its limit must find its memory.
constexpr std::size_t rounding = 4 * committed_bytes::chunk;

memory_promises::memory_promises(reading_function read, program_needs needs)
    : read_(std::move(read)), needs_(needs), anonymous_(read_().anonymous) {
  needs_.written -= std::min(needs_.written, rounding);
}

std::optional<std::string> memory_promises::promise(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  return count(bytes);
}

std::optional<std::string> memory_promises::promise_ahead(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  auto refused = count(bytes);
  ahead_ += refused ? 0 : bytes;
  return refused;
}

std::optional<std::string> memory_promises::draw(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::size_t drawn = std::min(ahead_, bytes);
  auto refused = bytes > drawn ? count(bytes - drawn) : std::nullopt;
  ahead_ -= refused ? 0 : drawn;
  return refused;
}

std::optional<std::string> memory_promises::count(std::size_t bytes) {
  const auto now = read_();
  const std::size_t written = now.anonymous > anonymous_ ? now.anonymous - anonymous_ : 0;
  const std::size_t wanted = promised_ + bytes + needs_.written;
  const std::size_t unwritten = wanted > written ? wanted - written : 0;
  for (const auto& bound : now.bounds)
    if (const std::size_t left = bound.left + bound.swap;
        bound.what == memory_bound::counts::written && std::max(unwritten, bytes) > left)
      return fmt::format("{} more would be written, {} with what is promised already and what the program needs "
                         "besides, and {} leaves {}",
                         format_bytes(bytes), format_bytes(unwritten), bound.who, format_bytes(left));
  promised_ += bytes;
  return std::nullopt;
}

void memory_promises::take_back(std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  promised_ -= std::min(promised_, bytes);
}

committed_bytes::committed_bytes(std::shared_ptr<memory_promises> promises, std::size_t reservation)
    : promises_(std::move(promises)), committed_(reservation / chunk + 1) {}

std::optional<std::string> committed_bytes::commit(std::size_t offset, std::size_t bytes, bool planned) {
  if (bytes == 0)
    return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto first = committed_.begin() + static_cast<std::ptrdiff_t>(offset / chunk);
  const auto last = committed_.begin() + static_cast<std::ptrdiff_t>(divide_up(offset + bytes, chunk));
  const auto missing = static_cast<std::size_t>(std::count(first, last, false));
  if (missing == 0)
    return std::nullopt;
  if (auto why = planned ? promises_->draw(missing * chunk) : promises_->promise(missing * chunk))
    return why;
  std::fill(first, last, true);
  return std::nullopt;
}

void committed_bytes::trim(std::size_t offset, std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  const std::size_t first = divide_up(offset, chunk);
  const std::size_t end = (offset + bytes) / chunk;
  std::size_t given = 0;
  for (std::size_t i = first; i < end; ++i)
    if (committed_[i]) {
      committed_[i] = false;
      ++given;
    }
  promises_->take_back(given * chunk);
}

} // namespace tropilla
