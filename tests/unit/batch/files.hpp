/// A scratch file for the tests of batches.
#pragma once

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <unistd.h>

namespace tropilla::testing {

/// Removed at the end.
class scratch_file {
public:
  explicit scratch_file(std::string_view content = {}) {
    const int fd = ::mkstemp(name_.data());
    REQUIRE(fd >= 0);
    ::close(fd);
    write(content);
  }
  ~scratch_file() {
    if (descriptor_ >= 0)
      ::close(descriptor_);
    ::unlink(name_.c_str());
  }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;

  void write(std::string_view content) { std::ofstream(name_, std::ios::binary) << content; }
  [[nodiscard]] std::string read() const {
    std::ostringstream text;
    text << std::ifstream(name_, std::ios::binary).rdbuf();
    return text.str();
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  /// For reading, from the start.
  [[nodiscard]] int descriptor() {
    if (descriptor_ >= 0)
      ::close(descriptor_);
    descriptor_ = ::open(name_.c_str(), O_RDONLY | O_CLOEXEC);
    return descriptor_;
  }

private:
  std::string name_ = "/tmp/tropilla-batch-XXXXXX";
  int descriptor_ = -1;
};

} // namespace tropilla::testing
