// Preloaded into a program: refuses memory once.
//
//   TROPILLA_REFUSE=N      the N-th allocation after the program's first byte of standard output
//   TROPILLA_REFUSE_COUNT  a file for how many there were
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {
// NOLINTBEGIN(readability-identifier-naming): glibc's own, by which it goes on when these are replaced.
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
// NOLINTEND(readability-identifier-naming)
}

namespace {

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): what is preloaded has nobody who hands it anything.
std::atomic<bool> speaking = false;
std::atomic<long> allocations = 0;
long refused = -1;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

[[gnu::constructor]] void begin() {
  if (const char* which = std::getenv("TROPILLA_REFUSE"))
    refused = std::strtol(which, nullptr, 10);
}

[[gnu::destructor]] void end() {
  const char* const path = std::getenv("TROPILLA_REFUSE_COUNT");
  std::FILE* const file = path != nullptr ? std::fopen(path, "w") : nullptr;
  if (file == nullptr)
    return;
  std::fprintf(file, "%ld\n", allocations.load());
  std::fclose(file);
}

bool is_refused() {
  if (!speaking || ++allocations != refused)
    return false;
  errno = ENOMEM;
  return true;
}

} // namespace

extern "C" {

void* malloc(std::size_t bytes) noexcept {
  return is_refused() ? nullptr : __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  return is_refused() ? nullptr : __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) noexcept {
  return is_refused() ? nullptr : __libc_realloc(old, bytes);
}
ssize_t write(int descriptor, const void* from, std::size_t bytes) {
  if (descriptor == STDOUT_FILENO)
    speaking = true;
  return ::syscall(SYS_write, descriptor, from, bytes);
}

} // extern "C"
