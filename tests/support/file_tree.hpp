/// Files that stand for the system's.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace tropilla::testing {

/// A folder of files, removed at the end.
class file_tree {
public:
  explicit file_tree(const std::map<std::string, std::string>& files) {
    std::string pattern = (std::filesystem::temp_directory_path() / "tropilla-test-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
    for (const auto& [path, text] : files) {
      std::filesystem::create_directories((root_ / path).parent_path());
      std::ofstream(root_ / path) << text;
    }
  }
  ~file_tree() { std::filesystem::remove_all(root_); }
  [[nodiscard]] std::filesystem::path operator/(const std::string& path) const { return root_ / path; }
  void write(const std::string& path, const std::string& text) const { std::ofstream(root_ / path) << text; }

private:
  std::filesystem::path root_;
};

} // namespace tropilla::testing
