// Reads and writes with POSIX calls, and keeps the reason of a failure.
#include "src/files/whole_file.hpp"

#include "tropilla/error.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace tropilla {
namespace {

[[noreturn]] void fail(std::string_view verb, const std::filesystem::path& path, int number) {
  throw error(errc::io_error,
              fmt::format("can't {} {}: {}", verb, path.string(), std::generic_category().message(number)));
}

} // namespace

whole_file whole_file::to_read(const std::filesystem::path& path) {
  whole_file file;
  file.path_ = path;
  // A pipe without a writer would block the opening.
  file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.descriptor_ < 0)
    fail("read", path, errno);
  struct stat facts {};
  if (::fstat(file.descriptor_, &facts) != 0)
    fail("read", path, errno);
  if (!S_ISREG(facts.st_mode))
    throw error(errc::io_error, fmt::format("can't read {}: it is no regular file", path.string()));
  file.bytes_ = static_cast<std::uint64_t>(facts.st_size);
  return file;
}

whole_file::whole_file(whole_file&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), bytes_(other.bytes_) {}

whole_file::~whole_file() {
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

void whole_file::read(std::uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("read", path_, errno);
    if (n == 0)
      throw error(errc::io_error, fmt::format("can't read {}: it ends before byte {}", path_.string(), offset + 1));
    offset += static_cast<std::uint64_t>(n);
    into = into.subspan(static_cast<std::size_t>(n));
  }
}

bool read_exactly(int descriptor, std::uint64_t offset, std::span<std::byte> out) noexcept {
  while (!out.empty()) {
    const auto n = ::pread(descriptor, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return true;
}

int write_exactly(int descriptor, std::uint64_t offset, std::span<const std::byte> bytes) noexcept {
  while (!bytes.empty()) {
    const auto n = ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? errno : ENOSPC;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return 0;
}

int open_unnamed(const std::filesystem::path& folder, mode_t mode) noexcept {
  if (::access("/proc/self/fd", X_OK) != 0) // what gives it a name
    return -1;
  return ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
}

bool give_name(int descriptor, const std::filesystem::path& name) noexcept {
  std::array<char, 32> here{};
  *fmt::format_to_n(here.data(), here.size() - 1, "/proc/self/fd/{}", descriptor).out = '\0';
  return ::linkat(AT_FDCWD, here.data(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

file_in_place::file_in_place(const std::filesystem::path& path, mode_t mode) : path_(path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) == 0 && !S_ISREG(facts.st_mode))
    throw error(errc::io_error, fmt::format("can't write {}: it is no regular file", path.string()));
  descriptor_ = open_unnamed(path.parent_path(), mode);
  if (descriptor_ >= 0)
    return;
  const std::filesystem::path beside = path.string() + fmt::format(".{}.part", ::getpid());
  descriptor_ = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (descriptor_ < 0)
    fail("write", path_, errno);
  beside_ = beside;
}

file_in_place::~file_in_place() {
  close();
}

void file_in_place::close() noexcept {
  if (descriptor_ < 0)
    return;
  ::close(std::exchange(descriptor_, -1));
  if (!beside_.empty())
    ::unlink(beside_.c_str());
}

/// Gives the file a free name beside its place, since a link can't replace a file; no two open files can have the same
/// one.
void file_in_place::name_beside() {
  if (!beside_.empty())
    return;
  struct stat facts {};
  if (::fstat(descriptor_, &facts) != 0)
    fail("write", path_, errno);
  const std::filesystem::path beside = path_.string() + fmt::format(".{:x}.part", facts.st_ino);
  if (!give_name(descriptor_, beside))
    fail("write", path_, errno);
  beside_ = beside;
}

void file_in_place::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void file_in_place::commit() {
  if (::fsync(descriptor_) != 0)
    fail("write", path_, errno);
  name_beside();
  if (::rename(beside_.c_str(), path_.c_str()) != 0)
    fail("write", path_, errno);
  beside_.clear();
  close();
}

} // namespace tropilla
