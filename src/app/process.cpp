// Reads /proc.
#include "src/app/process.hpp"

#include <ctime>
#include <fstream>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

namespace tropilla::app {
namespace {

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

std::size_t peak_resident_bytes() {
  // getrusage would do, but its mark survives exec: a small program started by a large one would look large.
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmHWM:")) {
      std::size_t kib = 0;
      if (std::istringstream(line.substr(6)) >> kib)
        return kib * 1024;
    }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

} // namespace tropilla::app
