// Locks .part files with flock, and handles the races around a file that is removed while others wait to lock it.
#include "src/io/part_file.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

fs::path part_path(const fs::path& folder, const packed_key& key) {
  return folder / (key.text() + std::string(part_file::suffix));
}

/// An exclusively locked descriptor of the file, or -1 with errno.
int open_locked(const fs::path& path, int flags) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0666);
    if (fd < 0)
      return -1;
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int cause = errno;
      ::close(fd);
      errno = cause;
      return -1;
    }
    if (part_file::is_named(fd, path))
      return fd;
    // Between open and flock its builder renamed or removed it: this lock is on a file that others read.
    ::close(fd);
  }
}

} // namespace

part_file::part_file(const fs::path& folder, const packed_key& key)
    : path_(part_path(folder, key)), descriptor_(open_locked(path_, O_CREAT)) {
  if (descriptor_ < 0) {
    cause_ = errno;
    return;
  }
  named_ = true;
  if (::ftruncate(descriptor_, 0) != 0) {
    cause_ = errno;
    abandon();
    ::close(std::exchange(descriptor_, -1));
  }
}

part_file::~part_file() {
  abandon();
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

bool part_file::rename_to(const fs::path& final_path) {
  if (::rename(path_.c_str(), final_path.c_str()) != 0)
    return false;
  named_ = false;
  return true;
}

void part_file::abandon() noexcept {
  if (!named_)
    return;
  named_ = false;
  ::unlink(path_.c_str()); // while locked, so no other process can have made a new one
  (void)!::ftruncate(descriptor_, 0);
  ::flock(descriptor_, LOCK_UN);
}

bool part_file::is_named(int fd, const fs::path& path) {
  struct stat mine {
  }, there{};
  return ::fstat(fd, &mine) == 0 && ::lstat(path.c_str(), &there) == 0 && mine.st_dev == there.st_dev &&
         mine.st_ino == there.st_ino;
}

bool part_file::is_locked(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0)
    return false;
  const bool locked = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return locked;
}

bool part_file::remove_leftover(const fs::path& folder, const packed_key& key) {
  const auto path = part_path(folder, key);
  const int fd = open_locked(path, 0);
  if (fd < 0)
    return errno != EWOULDBLOCK;
  ::unlink(path.c_str());
  ::close(fd);
  return true;
}

void part_file::remove_leftovers(const fs::path& folder, const packed_key& except) {
  std::error_code failed;
  for (fs::directory_iterator at(folder, failed); !failed && at != fs::directory_iterator(); at.increment(failed)) {
    const auto name = at->path().filename().string();
    if (!name.ends_with(suffix))
      continue;
    const auto key = packed_key::parse(std::string_view{name}.substr(0, name.size() - suffix.size()));
    if (key && *key != except)
      (void)remove_leftover(folder, *key);
  }
}

} // namespace tropilla
