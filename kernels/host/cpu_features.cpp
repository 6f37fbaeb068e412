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
#include <utility>

namespace tropilla::host {
namespace {

namespace fs = std::filesystem;

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

} // namespace

std::optional<double> cgroup_cpu_limit(const control_group_source& source) {
  std::optional<double> least;
  for (const auto& group : control_groups_of("cpu", source))
    if (const auto limit = group.version == 2 ? limit_v2(group.folder) : limit_v1(group.folder))
      least = least ? std::min(*least, *limit) : *limit;
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
