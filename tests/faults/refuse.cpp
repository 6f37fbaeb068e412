// Preloaded into a program: refuses calls of one kind.
//
//   TROPILLA_REFUSE_CALL    malloc (which is `new`, too), thread, mmap, read, eventfd or uring
//   TROPILLA_REFUSE         N: the N-th call is refused
//   TROPILLA_REFUSE_ON      set: and all after it
//   TROPILLA_REFUSE_START   set: calls count from the start, not from the first byte of standard output
//   TROPILLA_REFUSE_COUNT   a file for how many there were
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <pthread.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

extern "C" {
// NOLINTBEGIN(readability-identifier-naming): glibc's own, by which it goes on when these are replaced.
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
// NOLINTEND(readability-identifier-naming)
struct io_uring;
}

namespace {

enum class call { none, memory, thread, mapping, read, eventfd, uring };

call named(std::string_view name) {
  if (name == "malloc")
    return call::memory;
  if (name == "thread")
    return call::thread;
  if (name == "mmap")
    return call::mapping;
  if (name == "read")
    return call::read;
  if (name == "eventfd")
    return call::eventfd;
  return name == "uring" ? call::uring : call::none;
}

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): what is preloaded has nobody who hands it anything.
std::atomic<bool> counting = false;
std::atomic<long> calls = 0;
call watched = call::none;
long refused = -1;
bool from_then_on = false;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

[[gnu::constructor]] void begin() {
  if (const char* kind = std::getenv("TROPILLA_REFUSE_CALL"))
    watched = named(kind);
  if (const char* which = std::getenv("TROPILLA_REFUSE"))
    refused = std::strtol(which, nullptr, 10);
  from_then_on = std::getenv("TROPILLA_REFUSE_ON") != nullptr;
  counting = std::getenv("TROPILLA_REFUSE_START") != nullptr;
}

[[gnu::destructor]] void end() {
  watched = call::none;
  const char* const path = std::getenv("TROPILLA_REFUSE_COUNT");
  std::FILE* const file = path != nullptr ? std::fopen(path, "w") : nullptr;
  if (file == nullptr)
    return;
  std::fprintf(file, "%ld\n", calls.load());
  std::fclose(file);
}

bool is_refused(call kind) {
  if (kind != watched || !counting)
    return false;
  const long n = ++calls;
  return refused > 0 && (n == refused || (from_then_on && n > refused));
}

/// As a system call that fails.
template <class T>
T fail(int why, T result) {
  errno = why;
  return result;
}

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

} // namespace

extern "C" {

void* malloc(std::size_t bytes) noexcept {
  return is_refused(call::memory) ? fail(ENOMEM, nullptr) : __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  return is_refused(call::memory) ? fail(ENOMEM, nullptr) : __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) noexcept {
  return is_refused(call::memory) ? fail(ENOMEM, nullptr) : __libc_realloc(old, bytes);
}
int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*start)(void*), void* argument) noexcept {
  return is_refused(call::thread) ? EAGAIN
                                  : next<decltype(&pthread_create)>("pthread_create")(thread, how, start, argument);
}
void* mmap(void* at, std::size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  if (is_refused(call::mapping))
    return fail(ENOMEM, MAP_FAILED);
  return reinterpret_cast<void*>(::syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}
ssize_t read(int file, void* to, std::size_t bytes) {
  return is_refused(call::read) ? fail<ssize_t>(EIO, -1) : ::syscall(SYS_read, file, to, bytes);
}
ssize_t pread(int file, void* to, std::size_t bytes, off_t offset) {
  return is_refused(call::read) ? fail<ssize_t>(EIO, -1) : ::syscall(SYS_pread64, file, to, bytes, offset);
}
int eventfd(unsigned count, int flags) noexcept {
  return is_refused(call::eventfd) ? fail(EMFILE, -1) : static_cast<int>(::syscall(SYS_eventfd2, count, flags));
}
int io_uring_queue_init(unsigned entries, io_uring* ring, unsigned flags) {
  return is_refused(call::uring) ? -ENOMEM
                                 : next<decltype(&io_uring_queue_init)>("io_uring_queue_init")(entries, ring, flags);
}
int io_uring_submit(io_uring* ring) {
  return is_refused(call::uring) ? -EAGAIN : next<decltype(&io_uring_submit)>("io_uring_submit")(ring);
}
ssize_t write(int file, const void* from, std::size_t bytes) {
  if (file == STDOUT_FILENO)
    counting = true;
  return ::syscall(SYS_write, file, from, bytes);
}

} // extern "C"
