// Reads lines with POSIX calls, because streams lose the reason of a failure.
#include "src/batch/line_reader.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <poll.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): for the header
#include <xxhash.h>

namespace tropilla {
namespace {

constexpr std::size_t block_bytes = std::size_t{1} << 18;

} // namespace

std::uint64_t input_line::fingerprint() const noexcept {
  // Whatever limit it was read with: of a long line the beginning, and how long it is.
  const bool is_long = too_long || bytes > fingerprinted_bytes;
  const std::uint64_t seed = number * 0x9E3779B97F4A7C15ULL + (is_long ? bytes : 0);
  if (is_long)
    return XXH64(text.data(), std::min(text.size(), fingerprinted_bytes), seed);
  // An editor may add the last line end or the carriage returns that were missing: the request is the same.
  const std::size_t size = text.ends_with('\r') ? text.size() - 1 : text.size();
  return XXH64(text.data(), size, seed);
}

bool input_line::blank() const noexcept {
  return !too_long && text.find_first_not_of(" \t\r") == std::string::npos;
}

line_reader::line_reader(int descriptor, std::string name, std::size_t longest)
    : descriptor_(descriptor), name_(std::move(name)), longest_(longest) {
  line_.number = 1;
}

void line_reader::take(std::size_t count) {
  const std::size_t room = longest_ - line_.text.size();
  line_.text.append(buffer_, from_, std::min(count, room));
  line_.too_long = line_.too_long || count > room;
  line_.bytes += count;
  from_ += count;
}

std::optional<input_line> line_reader::next() {
  const std::size_t end = buffer_.find('\n', from_);
  if (end == std::string::npos) {
    take(buffer_.size() - from_);
    if (!at_end_ || line_.bytes == 0)
      return std::nullopt;
  } else {
    take(end - from_);
    ++from_;
    ++line_.bytes;
    line_.ended = true;
  }
  input_line done = std::exchange(line_, {});
  line_.number = done.number + 1;
  return done;
}

bool line_reader::readable(int milliseconds) const {
  if (at_end_)
    return true;
  pollfd wait{descriptor_, POLLIN, 0};
  return ::poll(&wait, 1, milliseconds) != 0; // an error shows in the read
}

void line_reader::read_some() {
  if (at_end_)
    return;
  buffer_.erase(0, from_);
  from_ = 0;
  const std::size_t kept = buffer_.size();
  buffer_.resize(kept + block_bytes);
  ssize_t n = 0;
  do
    n = ::read(descriptor_, buffer_.data() + kept, block_bytes);
  while (n < 0 && errno == EINTR);
  const int failed = errno;
  buffer_.resize(kept + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  if (n < 0)
    throw error(errc::io_error, fmt::format("can't read {}: {}", name_, std::generic_category().message(failed)));
  at_end_ = n == 0;
}

std::optional<input_line> line_reader::wait() {
  for (;;) {
    if (auto line = next())
      return line;
    if (at_end_)
      return std::nullopt;
    read_some();
  }
}

} // namespace tropilla
