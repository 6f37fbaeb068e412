/// Shares a folder of KV page files, and its budget, among processes. Inside of src/io.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace tropilla {

/// Holds a lock on the folder, so that only one process at a time adds up what the files take and lets one grow. Where
/// the file system knows no such locks, it holds none. Released with the object.
class kv_folder_lock {
public:
  explicit kv_folder_lock(const std::filesystem::path& folder) noexcept;
  ~kv_folder_lock();
  kv_folder_lock(const kv_folder_lock&) = delete;
  kv_folder_lock& operator=(const kv_folder_lock&) = delete;

private:
  int descriptor_;
};

inline constexpr std::string_view kv_file_suffix = ".kv";

/// Opens a file and locks it for this process alone, without waiting; -1 with errno, which is EWOULDBLOCK when another
/// holds it. What is returned has the name `path`.
[[nodiscard]] int open_kv_file(const std::filesystem::path& path, int flags) noexcept;

/// Removes files of KV pages that no process holds, the least recently used first, until all of the folder but `own`
/// take at most `bytes`. Returns what they take then. @pre the folder is locked
[[nodiscard]] std::uint64_t remove_kv_files(const std::filesystem::path& own, std::uint64_t bytes);

} // namespace tropilla
