// POSIX reads and writes with the reason of a failure.
#include "src/io/whole_file.hpp"

#include "tropilla/error.hpp"

#include <cerrno>
#include <cstdlib>
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

file_in_place::file_in_place(const std::filesystem::path& path) : path_(path), beside_(path.string() + ".XXXXXX") {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) == 0 && !S_ISREG(facts.st_mode))
    throw error(errc::io_error, fmt::format("can't write {}: it is no regular file", path.string()));
  descriptor_ = ::mkostemp(beside_.data(), O_CLOEXEC);
  if (descriptor_ < 0)
    fail("write", path_, errno);
}

file_in_place::~file_in_place() {
  if (descriptor_ < 0)
    return;
  ::close(descriptor_);
  ::unlink(beside_.c_str());
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
  if (::fsync(descriptor_) != 0 || ::rename(beside_.c_str(), path_.c_str()) != 0)
    fail("write", path_, errno);
  ::close(std::exchange(descriptor_, -1));
}

} // namespace tropilla
