// Opens files with O_DIRECT where it works, and handles the ways in which a read can end.
#include "src/io/open_files.hpp"

#include "memory/bytes.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tropilla {
namespace {

constexpr std::size_t usual_alignment = 4096; // suits every block device and file system that does not say

/// The alignment of direct reads of an open file; 0 when it can't be read directly.
std::size_t direct_alignment([[maybe_unused]] int fd) {
#ifdef STATX_DIOALIGN
  struct statx facts {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 && (facts.stx_mask & STATX_DIOALIGN))
    return std::max<std::size_t>(facts.stx_dio_mem_align, facts.stx_dio_offset_align);
#endif
  return usual_alignment;
}

int open_read_only(const std::filesystem::path& path, int flags) {
  int fd = -1;
  do
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  while (fd < 0 && errno == EINTR);
  return fd;
}

} // namespace

open_files::open_files(std::span<const std::filesystem::path> paths, io_mode mode, bool scattered) {
  try {
    for (const auto& path : paths)
      open_one(path, mode, scattered);
  } catch (...) {
    close_all();
    throw;
  }
}

open_files::~open_files() {
  close_all();
}

void open_files::open_one(const std::filesystem::path& path, io_mode mode, bool scattered) {
  bool direct = mode == io_mode::direct;
  int fd = direct ? open_read_only(path, O_DIRECT) : -1;
  if (fd < 0) { // asked for buffered, or refused: whatever else is wrong shows here, too
    direct = false;
    fd = open_read_only(path, 0);
  }
  if (fd < 0)
    throw error(errc::io_error, fmt::format("can't open {}: {}", path.string(), std::strerror(errno)));
  auto& file = files_.emplace_back(fd, path.string(), direct);
  if (direct) {
    if (const std::size_t alignment = direct_alignment(fd))
      alignment_ = std::max(alignment_, alignment);
    else
      direct = !stop_direct(files_.size() - 1);
  }
  if (!direct)
    (void)::posix_fadvise(file.descriptor, 0, 0, scattered ? POSIX_FADV_RANDOM : POSIX_FADV_SEQUENTIAL);
}

void open_files::close_all() noexcept {
  for (const auto& f : files_)
    ::close(f.descriptor);
}

io_mode open_files::mode() const noexcept {
  const bool direct = !files_.empty() && std::all_of(files_.begin(), files_.end(), [](const entry& f) {
    return f.direct.load(std::memory_order_relaxed);
  });
  return direct ? io_mode::direct : io_mode::buffered;
}

bool open_files::stop_direct(std::size_t file) const {
  const auto& f = files_[file];
  const int flags = ::fcntl(f.descriptor, F_GETFL);
  if (flags < 0 || ::fcntl(f.descriptor, F_SETFL, flags & ~O_DIRECT) < 0)
    return false;
  f.direct.store(false, std::memory_order_relaxed);
  return true;
}

std::string open_files::failure(const read_request& r, std::string_view cause) const {
  return fmt::format("can't read {} at offset {} of {}: {}", format_bytes(r.bytes), r.offset, files_[r.file].name,
                     cause);
}

read_request pending_read::rest() const noexcept {
  auto r = request_;
  r.offset += arrived_;
  r.destination += arrived_;
  r.bytes -= arrived_;
  return r;
}

bool pending_read::end_of_file(const open_files& files) {
  failure_ = files.failure(rest(), "the file ended; it was truncated after it was opened");
  return true;
}

bool pending_read::take(long result, const open_files& files) {
  if (result == -EINTR || result == -EAGAIN)
    return false;
  // Some file systems accept O_DIRECT when they open and refuse it when they read.
  if (result == -EINVAL && files.is_direct(request_.file) && files.stop_direct(request_.file))
    return false;
  if (result < 0) {
    failure_ = files.failure(rest(), std::strerror(static_cast<int>(-result)));
    return true;
  }
  const std::size_t before = arrived_;
  arrived_ += static_cast<std::size_t>(result);
  if (arrived_ >= required())
    return true;
  if (result == 0)
    return end_of_file(files);
  if (!files.is_direct(request_.file))
    return false;
  // A direct read goes on from an aligned place. Where that is no progress, the file ends inside of the block.
  arrived_ -= arrived_ % files.alignment();
  return arrived_ <= before && end_of_file(files);
}

} // namespace tropilla
