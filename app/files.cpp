// Reads and writes with POSIX calls, because streams lose the reason of a failure.
#include "app/files.hpp"

#include "memory/bytes.hpp"
#include "src/files/whole_file.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <span>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tropilla::app {
namespace {

class descriptor {
public:
  explicit descriptor(int fd) : fd_(fd) {}
  ~descriptor() {
    if (fd_ >= 0)
      ::close(fd_);
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  [[nodiscard]] int get() const noexcept { return fd_; }

private:
  int fd_;
};

std::string read_all(int fd, std::string_view name, std::size_t max_bytes) {
  std::string bytes;
  std::string block(std::size_t{1} << 16, '\0');
  for (;;) {
    const ssize_t n = ::read(fd, block.data(), block.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      throw_system_error("read", name, errno);
    if (n == 0)
      return bytes;
    if (static_cast<std::size_t>(n) > max_bytes - bytes.size())
      throw error(errc::io_error, fmt::format("{} has more than {}, which is the most that is read here", name,
                                              format_bytes(max_bytes)));
    bytes.append(block.data(), static_cast<std::size_t>(n));
  }
}

void write_or_throw(int fd, std::string_view bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      throw_system_error("write", name, errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

} // namespace

void throw_system_error(std::string_view verb, std::string_view path, int number) {
  throw error(errc::io_error, fmt::format("can't {} {}: {}", verb, path, std::generic_category().message(number)));
}

std::size_t max_prompt_bytes(std::size_t context) noexcept {
  constexpr std::size_t longest_token = 256, min_bytes = std::size_t{1} << 18, max_bytes = std::size_t{16} << 20;
  return std::clamp(context * longest_token, min_bytes, max_bytes);
}

std::string read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0)
    throw_system_error("read", path.string(), errno);
  return read_all(file.get(), path.string(), max_bytes);
}

std::string read_standard_input(std::size_t max_bytes) {
  return read_all(STDIN_FILENO, "standard input", max_bytes);
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) == 0 && !S_ISREG(facts.st_mode)) {
    // A pipe or a device can't be replaced, only written to.
    const descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (file.get() < 0)
      throw_system_error("write", path.string(), errno);
    write_or_throw(file.get(), bytes, path.string());
    return;
  }
  file_in_place file(path, file_in_place::usual);
  file.write(std::as_bytes(std::span(bytes)));
  file.commit();
}

std::filesystem::path expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home && (path == "~" || path.starts_with("~/")))
    return home + path.substr(1);
  return path;
}

std::filesystem::path user_directory(const char* variable, std::string_view fallback) {
  // The XDG specification: a relative path in the variable is to be ignored.
  if (const char* value = std::getenv(variable); value && value[0] == '/')
    return value;
  if (const char* home = std::getenv("HOME"); home && home[0] == '/')
    return std::filesystem::path(home) / fallback;
  return {};
}

std::filesystem::path packed_cache_directory() {
  const auto caches = user_directory("XDG_CACHE_HOME", ".cache");
  return caches.empty() ? caches : caches / "tropilla" / "packed";
}

std::filesystem::path kv_directory() {
  const auto caches = user_directory("XDG_CACHE_HOME", ".cache");
  return caches.empty() ? caches : caches / "tropilla" / "kv";
}

} // namespace tropilla::app
