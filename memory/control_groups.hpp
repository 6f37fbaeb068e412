/// Finds the files of this process's control groups, of version 1 and 2.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace tropilla {

/// The system's files that describe control groups. Tests point it at files of their own.
struct control_group_source {
  std::filesystem::path membership = "/proc/self/cgroup";
  std::filesystem::path mounts = "/proc/self/mountinfo";
};

/// A control group that the process is in, directly or through a group below it.
struct control_group {
  std::filesystem::path folder;
  int version = 2;
};

/// The process's group of the unified hierarchy and that of version 1's `controller` ("cpu"), each followed by the
/// groups above it, as far as they are mounted. A container that sees its own group as the root of a mount has that
/// one. Empty where nothing can be read; lines that are malformed are ignored.
[[nodiscard]] std::vector<control_group> control_groups_of(std::string_view controller,
                                                           const control_group_source& source = {});

} // namespace tropilla
