// Lines of /proc/meminfo.
#include "src/app/machine_memory.hpp"

#include <fstream>
#include <string>
#include <string_view>

namespace tropilla::app {
namespace {

std::size_t fact(std::string_view wanted) {
  std::ifstream facts("/proc/meminfo");
  std::string name, unit;
  std::size_t kib = 0;
  while (facts >> name >> kib && std::getline(facts, unit))
    if (name == wanted)
      return kib * 1024;
  return 0;
}

} // namespace

std::size_t all_memory() {
  return fact("MemTotal:");
}

std::size_t available_memory() {
  return fact("MemAvailable:");
}

} // namespace tropilla::app
