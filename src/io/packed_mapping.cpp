// Maps entries, checks and watches them, and replaces them by memory when they are lost.
#include "src/io/packed_mapping.hpp"

#include "memory/rounding.hpp"
#include "src/io/packed_file_format.hpp"

#include <chrono>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace tropilla {
namespace {

/// Waits until the clock of files' times has ticked since the last change: a change in the same tick would leave no
/// trace. False when the file's time is in the future.
bool tick_is_over(const timespec& changed) {
  constexpr int max_waits = 20; // a tick is 1 to 10 ms
  for (int i = 0; i < max_waits; ++i) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec > changed.tv_sec || (now.tv_sec == changed.tv_sec && now.tv_nsec > changed.tv_nsec))
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

} // namespace

std::shared_ptr<packed_mapping> packed_mapping::make(int descriptor,
                                                     std::shared_ptr<const packed_format::file_header> header) {
  const int own = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (own < 0)
    return nullptr;
  const auto bytes = static_cast<std::size_t>(header->file_bytes);
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, own, 0);
  if (memory == MAP_FAILED) {
    ::close(own);
    return nullptr;
  }
  std::shared_ptr<packed_mapping> m(new packed_mapping(own, std::move(header), static_cast<std::byte*>(memory), bytes));
  // Its length has changed since the header was read; or nothing would save us from its getting shorter.
  return !tick_is_over(m->changed_) || m->lost() || !m->range_.guarded() ? nullptr : m;
}

packed_mapping::packed_mapping(int descriptor, std::shared_ptr<const packed_format::file_header> header,
                               std::byte* begin, std::size_t bytes)
    : descriptor_(descriptor), header_(std::move(header)), begin_(begin), bytes_(bytes), range_(begin, bytes) {
  struct stat facts {};
  if (::fstat(descriptor_, &facts) == 0)
    changed_ = facts.st_mtim;
}

packed_mapping::~packed_mapping() {
  ::munmap(begin_, bytes_); // guarded until the range goes, when no thread reads it
  ::close(descriptor_);
}

bool packed_mapping::is_sound(std::size_t section, std::uint64_t offset, std::size_t bytes) const noexcept {
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;
#endif
  auto* const begin = begin_ + header_->offsets[section] + offset;
  // A refusal (Linux before 5.14, or a file that was cut short) costs page faults.
  const std::size_t pages = round_up(bytes, packed_format::alignment);
  (void)::madvise(begin, pages, MADV_POPULATE_READ);
  return header_->is_sound(section, offset, {begin, bytes});
}

bool packed_mapping::lost() noexcept {
  if (range_.lost())
    return true;
  struct stat facts {};
  if (::fstat(descriptor_, &facts) == 0 && static_cast<std::size_t>(facts.st_size) == bytes_ &&
      facts.st_mtim.tv_sec == changed_.tv_sec && facts.st_mtim.tv_nsec == changed_.tv_nsec)
    return range_.lost(); // a handler may have been called meanwhile
  lose();
  return true;
}

packed_mapping::claim packed_mapping::claim_range(std::byte* begin, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto [it, is_new] = own_.try_emplace(begin, content::none);
  if (it->second == content::whole)
    return claim::done;
  if (it->second == content::in_flight)
    return claim::others;
  if (is_new && !range_.replace(begin, bytes)) {
    own_.erase(it);
    return claim::refused;
  }
  it->second = content::in_flight;
  return claim::mine;
}

void packed_mapping::filled(const std::byte* begin, bool whole) {
  const std::lock_guard lock(mutex_);
  own_[begin] = whole ? content::whole : content::none;
}

} // namespace tropilla
