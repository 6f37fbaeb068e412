// Replaces `pthread_create` in the program: a thread that the system refuses is asked for again, for a tenth of a
// second.
//
// Processes end all the time, and give threads back. Libraries that a process is made of (CAF before all) end it, or
// wait for ever, where one is refused to them.
#include <cerrno>
#include <chrono>
#include <dlfcn.h>
#include <pthread.h>
#include <thread>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which have a `pthread_create` that knows more
extern "C" [[gnu::visibility("default")]] int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                             void* (*run)(void*), void* argument) noexcept {
  static const auto create = reinterpret_cast<decltype(&pthread_create)>(::dlsym(RTLD_NEXT, "pthread_create"));
  constexpr std::chrono::milliseconds pause{5}, patience{100};
  for (std::chrono::milliseconds waited{0};; waited += pause) {
    const int failed = create(thread, attributes, run, argument);
    if (failed != EAGAIN || waited >= patience)
      return failed;
    std::this_thread::sleep_for(pause);
  }
}
#endif
