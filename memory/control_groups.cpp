// Reads the process's groups from /proc/self/cgroup and their mount points from /proc/self/mountinfo.
#include "memory/control_groups.hpp"

#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

bool has_word(const std::string& list, std::string_view word) {
  std::istringstream in(list);
  for (std::string item; std::getline(in, item, ',');)
    if (item == word)
      return true;
  return false;
}

/// The process's group of the unified hierarchy ("") and of version 1's controller, where it has one.
struct memberships {
  std::optional<std::string> unified, own;
};

memberships read_memberships(const fs::path& file, std::string_view controller) {
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
    else if (has_word(controllers, controller))
      out.own = line.substr(second + 1);
  }
  return out;
}

/// Adds the group `path` of a membership line and those above it, inside the mount that shows `root` of the hierarchy
/// at `mount`.
void add_up_to_mount(std::vector<control_group>& out, const fs::path& mount, const std::string& root,
                     const std::string& path, int version) {
  std::string inside = path;
  if (root != "/" && (inside == root || inside.starts_with(root + "/")))
    inside.erase(0, root.size());
  else if (root != "/")
    inside.clear(); // a container that shows its own group as the mount's root
  while (!inside.empty() && inside.front() == '/')
    inside.erase(0, 1);
  for (fs::path folder = inside.empty() ? mount : mount / inside;; folder = folder.parent_path()) {
    out.push_back({folder, version});
    if (folder == mount || !folder.has_relative_path())
      return;
  }
}

} // namespace

std::vector<control_group> control_groups_of(std::string_view controller, const control_group_source& source) {
  const auto groups = read_memberships(source.membership, controller);
  std::vector<control_group> out;
  std::ifstream in(source.mounts);
  for (std::string line; std::getline(in, line);) {
    // "36 35 98:0 /root /mount options [optional fields] - type source super-options"
    std::istringstream words(line);
    std::string id, parent, device, root, mount, word, type, origin, options;
    words >> id >> parent >> device >> root >> mount;
    while (words >> word && word != "-") {
    }
    words >> type >> origin >> options;
    if (type == "cgroup2" && groups.unified)
      add_up_to_mount(out, mount, root, *groups.unified, 2);
    else if (type == "cgroup" && groups.own && has_word(options, controller))
      add_up_to_mount(out, mount, root, *groups.own, 1);
  }
  return out;
}

} // namespace tropilla
