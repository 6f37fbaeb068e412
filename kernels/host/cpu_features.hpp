/// Finds out what this process may compute with: its control groups' CPU quota, and the processor's instruction sets.
#pragma once

#include "kernels/host/topology.hpp"
#include "memory/control_groups.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla::host {

/// CPUs that the process's control groups (v1 and v2, ancestors included) let it use on average: 1.5 of
/// `cpu.max` "150000 100000". Empty where nothing limits it or nothing can be read.
[[nodiscard]] std::optional<double> cgroup_cpu_limit(const control_group_source& source = {});

/// Cores of `cpus` that this process may keep busy under that limit, at least 1.
[[nodiscard]] std::size_t usable_cores(const topology& cpus);

/// Whether this machine runs the kernels of "scalar", "avx2" (with FMA, F16C, BMI2) or "avx512" (F, BW, DQ, VL and
/// VNNI). False for any other name.
[[nodiscard]] bool has_isa(std::string_view isa) noexcept;

/// The instruction set to use: `wanted`, else the environment's TROPILLA_ISA, else the best.
/// Throws `error` (invalid_argument) for an unknown or unavailable one.
[[nodiscard]] std::string_view choose_isa(const std::string& wanted);

} // namespace tropilla::host
