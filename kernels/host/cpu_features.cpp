// Reads control groups and CPUID.
#include "kernels/host/cpu_features.hpp"

#include "kernels/device.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <cpuid.h>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <sstream>
#include <utility>

namespace tropilla::host {
namespace {

namespace fs = std::filesystem;

/// Where a control group's files are: the folder of the group, up to the mount point.
struct group_folder {
  fs::path mount;
  fs::path group;
};

/// `path` of a membership line inside the mount that shows `root` of the hierarchy at `mount`.
group_folder folder_of(const fs::path& mount, const std::string& root, const std::string& path) {
  std::string inside = path;
  if (root != "/" && inside.compare(0, root.size(), root) == 0)
    inside.erase(0, root.size());
  else if (root != "/")
    inside.clear(); // a container that shows its own group as the mount's root
  while (!inside.empty() && inside.front() == '/')
    inside.erase(0, 1);
  return {mount, inside.empty() ? mount : mount / inside};
}

std::optional<double> limit_v2(const fs::path& folder) {
  std::string quota;
  double period = 0;
  std::ifstream file(folder / "cpu.max");
  if (!(file >> quota >> period) || quota == "max" || period <= 0)
    return std::nullopt;
  const double value = std::strtod(quota.c_str(), nullptr);
  return value > 0 ? std::optional(value / period) : std::nullopt;
}

std::optional<double> limit_v1(const fs::path& folder) {
  double quota = 0, period = 0;
  if (!(std::ifstream(folder / "cpu.cfs_quota_us") >> quota) ||
      !(std::ifstream(folder / "cpu.cfs_period_us") >> period))
    return std::nullopt;
  return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
}

template <class Read>
std::optional<double> least_up_to_mount(const group_folder& at, Read read) {
  std::optional<double> least;
  for (fs::path folder = at.group;; folder = folder.parent_path()) {
    if (const auto limit = read(folder))
      least = least ? std::min(*least, *limit) : *limit;
    if (folder == at.mount || !folder.has_relative_path())
      return least;
  }
}

bool has_word(const std::string& list, std::string_view word) {
  std::istringstream in(list);
  for (std::string item; std::getline(in, item, ',');)
    if (item == word)
      return true;
  return false;
}

/// The process's group of the unified hierarchy ("") and of v1's cpu controller, where it has one.
struct memberships {
  std::optional<std::string> unified, cpu;
};

memberships read_memberships(const fs::path& file) {
  memberships out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) { // "4:cpu,cpuacct:/path", "0::/path"
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos)
      continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty())
      out.unified = line.substr(second + 1);
    else if (has_word(controllers, "cpu"))
      out.cpu = line.substr(second + 1);
  }
  return out;
}

} // namespace

std::optional<double> cgroup_cpu_limit(const cgroup_source& source) {
  const auto groups = read_memberships(source.membership);
  std::optional<double> least;
  std::ifstream in(source.mounts);
  for (std::string line; std::getline(in, line);) {
    // "36 35 98:0 /root /mount options [optional fields] - type source super-options"
    std::istringstream words(line);
    std::string id, parent, device, root, mount, word, type, origin, options;
    words >> id >> parent >> device >> root >> mount;
    while (words >> word && word != "-") {
    }
    words >> type >> origin >> options;
    std::optional<double> limit;
    if (type == "cgroup2" && groups.unified)
      limit = least_up_to_mount(folder_of(mount, root, *groups.unified), limit_v2);
    else if (type == "cgroup" && groups.cpu && has_word(options, "cpu"))
      limit = least_up_to_mount(folder_of(mount, root, *groups.cpu), limit_v1);
    if (limit)
      least = least ? std::min(*least, *limit) : *limit;
  }
  return least;
}

namespace {

/// Clang's __builtin_cpu_supports does not know this name before version 16.
bool has_f16c() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

} // namespace

bool has_isa(std::string_view isa) noexcept {
  // These ask CPUID, and XGETBV for whether the system saves the registers.
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() && __builtin_cpu_supports("bmi2");
  if (isa == "avx2")
    return avx2;
  if (isa == "avx512")
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  return isa == "scalar";
}

std::string_view choose_isa(const std::string& wanted) {
  static constexpr std::array<std::string_view, 3> known{"avx512", "avx2", "scalar"};
  std::string name = wanted;
  std::string_view from = "the option isa";
  if (name.empty())
    if (const char* forced = std::getenv("TROPILLA_ISA"); forced != nullptr) {
      name = forced;
      from = "the variable TROPILLA_ISA";
    }
  if (name.empty())
    return *std::find_if(known.begin(), known.end(), has_isa);
  const auto found = std::find(known.begin(), known.end(), name);
  if (found == known.end())
    throw error(errc::invalid_argument,
                fmt::format("{} names the unknown instruction set '{}'; use scalar, avx2 or avx512", from, name));
  if (!has_isa(name))
    throw error(errc::invalid_argument, fmt::format("{} asks for {}, which this machine lacks; the best it has is {}",
                                                    from, name, *std::find_if(known.begin(), known.end(), has_isa)));
  return *found;
}

std::size_t usable_cores(const topology& cpus) {
  const auto limit = cgroup_cpu_limit();
  // Rounded down: a team that spins on more threads than its quota is stopped in the middle of every step.
  return limit ? std::clamp<std::size_t>(static_cast<std::size_t>(std::min(*limit, 65536.0)), 1, cpus.cores)
               : cpus.cores;
}

} // namespace tropilla::host

namespace tropilla {

std::size_t usable_cores() {
  return host::usable_cores(host::read_topology());
}

std::string_view host_isa() {
  return host::choose_isa("");
}

} // namespace tropilla
