/// What a process prints while a test looks away from its terminal.
#pragma once

#include "tests/support/tiny_model.hpp"

#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <unistd.h>
#include <utility>

namespace tropilla::testing {

/// Standard output and standard error in a file, while it lives.
class caught_output {
public:
  caught_output() : path_(scratch() / "output") {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (int i = 0; i < 2; ++i) {
      saved_[i] = ::dup(i + 1);
      ::dup2(fd, i + 1);
    }
    ::close(fd);
  }
  ~caught_output() { (void)text(); }
  std::string text() {
    for (int i = 0; i < 2; ++i)
      if (saved_[i] >= 0) {
        ::dup2(saved_[i], i + 1);
        ::close(std::exchange(saved_[i], -1));
      }
    std::ostringstream out;
    out << std::ifstream(path_).rdbuf();
    return out.str();
  }

private:
  std::filesystem::path path_;
  int saved_[2] = {-1, -1};
};

} // namespace tropilla::testing
