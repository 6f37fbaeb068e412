/// A limit on the length of files, which is what a disk says when it is full but for the error's name.
#pragma once

#include <csignal>
#include <sys/resource.h>

namespace tropilla::testing {

/// Holds for the whole process, as long as it lives.
class little_disk {
public:
  explicit little_disk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit little{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &little);
  }
  ~little_disk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  little_disk(const little_disk&) = delete;
  little_disk& operator=(const little_disk&) = delete;

private:
  void (*handler_)(int);
  rlimit before_{};
};

} // namespace tropilla::testing
