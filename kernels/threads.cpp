// Words the error where there are no threads, and tries whether there are any.
#include "kernels/threads.hpp"

#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <latch>
#include <vector>

namespace tropilla {

void throw_no_thread(std::string_view what_for, const std::system_error& why) {
  throw error(errc::io_error, fmt::format("the system gives this process no more threads for {} ({}); raise its limit "
                                          "of processes (ulimit -u, pids.max of the container) or of memory (ulimit "
                                          "-v), or compute with fewer threads",
                                          what_for, why.code().message()));
}

void require_threads(std::size_t count, std::string_view what_for) {
  std::latch enough(1);
  std::vector<std::jthread> threads;
  threads.reserve(count);
  try {
    for (std::size_t i = 0; i < count; ++i)
      threads.push_back(start_thread(what_for, [&enough] { enough.wait(); }));
  } catch (...) {
    enough.count_down();
    throw;
  }
  enough.count_down();
}

} // namespace tropilla
