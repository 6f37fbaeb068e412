/// The .part file of a packed entry: a temporary file that is its own lock. Inside of src/io.
///
/// The process that holds its flock builds the entry; a file that no process has locked was left by one that died.
/// There is no lock file beside it that would have to be removed, too.
#pragma once

#include "src/io/packed_cache.hpp"

namespace tropilla {

class part_file {
public:
  static constexpr std::string_view suffix = ".part";

  /// Creates the file, or takes over one that a dead process left, emptied. On failure `descriptor()` is negative and
  /// `cause()` says why: EWOULDBLOCK when another process builds.
  part_file(const std::filesystem::path& folder, const packed_key& key);
  /// Removes the file unless it was renamed, and releases the lock.
  ~part_file();
  part_file(const part_file&) = delete;
  part_file& operator=(const part_file&) = delete;

  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  [[nodiscard]] int cause() const noexcept { return cause_; } ///< an errno; 0 when it is there
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Gives the file its final name, atomically. False with `errno` when the system refuses.
  [[nodiscard]] bool rename_to(const std::filesystem::path& final_path);
  /// Removes the file, gives its space back and releases the lock now; the descriptor stays open, because others may be
  /// writing to it.
  void abandon() noexcept;

  /// Whether the descriptor's file is the one that has this name now.
  [[nodiscard]] static bool is_named(int descriptor, const std::filesystem::path& path);
  /// Whether a process is building.
  [[nodiscard]] static bool is_locked(const std::filesystem::path& path);
  /// Removes the file if no process holds its lock; false when one does.
  [[nodiscard]] static bool remove_leftover(const std::filesystem::path& folder, const packed_key& key);
  /// The same for all entries of the folder but one.
  static void remove_leftovers(const std::filesystem::path& folder, const packed_key& except);

private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  int cause_ = 0;
  bool named_ = false; ///< under `path_`
};

} // namespace tropilla
