// Reads the process's figures from /proc.
#include "app/process.hpp"

#include "tropilla/error.hpp"

#include <ctime>
#include <fmt/format.h>
#include <fstream>
#include <malloc.h>
#include <pthread.h>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

namespace tropilla::app {
namespace {

constexpr std::size_t kib = 1024;
/// 232 KiB were used, for a TOML file as deep as one may be; arguments and variables take up to 128.
constexpr std::size_t min_main_stack = 512 * kib;
/// Address space: what is not used is not resident.
constexpr std::size_t min_thread_stack = 1024 * kib;

/// Seconds since the process was made, or 0 when unknown.
double age_of_process() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')'); // the name, field 2, may hold anything
  if (name_end == std::string::npos)
    return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field)
    fields >> skipped;
  double start_ticks = 0;
  fields >> start_ticks;
  timespec now{};
  if (!fields || ::clock_gettime(CLOCK_BOOTTIME, &now) != 0)
    return 0;
  const double since_boot = static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  return since_boot - start_ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

} // namespace

process_clock::process_clock() : begin_(std::chrono::steady_clock::now()) {
  const double age = age_of_process();
  age_at_begin_ = age > 0 && age < 1.0 ? age : 0;
}

double process_clock::seconds() const {
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - begin_;
  return age_at_begin_ + since.count();
}

void spare_address_space() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    ::mallopt(M_ARENA_MAX, 1);
}

std::size_t peak_resident_bytes() {
  // getrusage would do, but its mark survives exec: a small program started by a large one would look large.
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmHWM:")) {
      std::size_t size = 0;
      if (std::istringstream(line.substr(6)) >> size)
        return size * kib;
    }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * kib;
}

void check_stack_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= min_thread_stack)
    return;
  if (limit.rlim_cur < min_main_stack)
    throw error(errc::invalid_argument,
                fmt::format("the stack is limited to {} KiB, and {} KiB are needed; raise the limit: ulimit -s {}",
                            limit.rlim_cur / kib, min_main_stack / kib, min_thread_stack / kib));
  // glibc gives a thread as much as the limit says, also those of libraries.
  pthread_attr_t attributes{};
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, min_thread_stack);
  ::pthread_setattr_default_np(&attributes);
  ::pthread_attr_destroy(&attributes);
}

} // namespace tropilla::app
