// Locks the folder and its files with flock, and removes what has not been used for longest.
#include "src/io/kv_folder.hpp"

#include "src/io/kv_page_format.hpp"
#include "src/io/part_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>
#include <vector>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

struct other_file {
  fs::path path;
  std::uint64_t bytes = 0;
  timespec used{};
};

/// False when a process holds it, or it is not one of ours.
bool remove_one(const fs::path& path) {
  const int fd = open_kv_file(path, O_RDWR);
  if (fd < 0)
    return errno == ENOENT;
  std::array<std::byte, 8> first{};
  const auto n = ::pread(fd, first.data(), first.size(), 0);
  const bool ours = n > 0 && has_kv_magic(std::span(first).first(static_cast<std::size_t>(n)));
  const bool removed = ours && ::unlink(path.c_str()) == 0; // while locked, so no process can be using it
  ::close(fd);
  return removed;
}

} // namespace

kv_folder_lock::kv_folder_lock(const fs::path& folder) noexcept
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  while (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
  }
}

kv_folder_lock::~kv_folder_lock() {
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

int open_kv_file(const fs::path& path, int flags) noexcept {
  for (;;) {
    // A pipe without a writer would block the opening.
    const int fd = ::open(path.c_str(), O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
    if (fd < 0)
      return -1;
    struct stat facts {};
    int cause = ::fstat(fd, &facts) != 0 ? errno : S_ISREG(facts.st_mode) ? 0 : EINVAL;
    if (cause == 0 && ::flock(fd, LOCK_EX | LOCK_NB) != 0)
      cause = errno;
    if (cause == 0 && part_file::is_named(fd, path))
      return fd;
    ::close(fd);
    if (cause != 0) {
      errno = cause;
      return -1;
    }
    // Between open and flock its last user removed it: this lock is on a file that nobody finds.
  }
}

std::uint64_t remove_kv_files(const fs::path& own, std::uint64_t bytes) {
  std::vector<other_file> others;
  std::uint64_t sum = 0;
  std::error_code failed;
  for (fs::directory_iterator at(own.parent_path(), failed); !failed && at != fs::directory_iterator();
       at.increment(failed)) {
    const auto& path = at->path();
    struct stat facts {};
    if (path.extension() != kv_file_suffix || path.filename() == own.filename() || ::lstat(path.c_str(), &facts) != 0 ||
        !S_ISREG(facts.st_mode))
      continue;
    others.push_back({path, static_cast<std::uint64_t>(facts.st_size), facts.st_mtim});
    sum += others.back().bytes;
  }
  std::ranges::sort(others, [](const other_file& a, const other_file& b) {
    return std::tie(a.used.tv_sec, a.used.tv_nsec) < std::tie(b.used.tv_sec, b.used.tv_nsec);
  });
  for (auto it = others.begin(); it != others.end() && sum > bytes; ++it)
    if (remove_one(it->path))
      sum -= it->bytes;
  return sum;
}

} // namespace tropilla
