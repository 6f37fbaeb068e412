// Threads that the system gives, or refuses.
#include "kernels/host/team.hpp"
#include "kernels/threads.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

using namespace tropilla;

namespace {

std::size_t address_space_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Leaves the process memory for the stacks of about so many threads more.
class little_memory {
public:
  explicit little_memory(std::size_t threads) {
    ::getrlimit(RLIMIT_AS, &before_);
    rlimit now = before_;
    now.rlim_cur = address_space_bytes() + threads * (std::size_t{10} << 20);
    ::setrlimit(RLIMIT_AS, &now);
  }
  ~little_memory() { ::setrlimit(RLIMIT_AS, &before_); }
  little_memory(const little_memory&) = delete;
  little_memory& operator=(const little_memory&) = delete;

private:
  rlimit before_{};
};

template <class F>
std::string refusal_of(F f) {
  try {
    f();
  } catch (const error& e) {
    CHECK(e.code() == errc::io_error);
    return e.what();
  }
  return "";
}

} // namespace

TEST_CASE("threads that are there are given back, and those that are not are told of") {
  CHECK_NOTHROW(require_threads(8, "a test"));
  CHECK_NOTHROW(require_threads(0, "a test"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which take address space without end
  const little_memory two(2);
  CHECK_THAT(refusal_of([] { require_threads(64, "a test"); }), Catch::Contains("no more threads for a test"));
#endif
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a team that gets only some of its threads ends those") {
  const little_memory two(2);
  CHECK_THAT(refusal_of([] { const host::team all(64, "test"); }), Catch::Contains("no more threads for computing"));
}
#endif
