/// Reads or writes a file piece by piece on the calling thread, with the system's reasons for failures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <sys/types.h>

namespace tropilla {

/// An open file. Throws `error` (io_error) with the path and the system's reason from every function.
class whole_file {
public:
  [[nodiscard]] static whole_file to_read(const std::filesystem::path& path);
  whole_file(whole_file&& other) noexcept;
  whole_file& operator=(whole_file&&) = delete;
  ~whole_file();

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Fills `into` from an offset; a file that ends before is an error. Any thread.
  void read(std::uint64_t offset, std::span<std::byte> into) const;

private:
  whole_file() = default;

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t bytes_ = 0;
};

/// Reads exactly that many bytes; false when they can't be read, also where the file ends before.
[[nodiscard]] bool read_exactly(int descriptor, std::uint64_t offset, std::span<std::byte> out) noexcept;
/// Writes them all: 0, or the errno of what went wrong.
[[nodiscard]] int write_exactly(int descriptor, std::uint64_t offset, std::span<const std::byte> bytes) noexcept;

/// Opens a file without a name in a folder for writing, of which nothing is left however the process ends. Returns -1
/// with errno where the file system knows no such files.
[[nodiscard]] int open_unnamed(const std::filesystem::path& folder, mode_t mode) noexcept;
/// Names such a file; false with errno, also where the name is taken.
[[nodiscard]] bool give_name(int descriptor, const std::filesystem::path& name) noexcept;

/// A file on its way: it takes the place of `path` when it is complete, or leaves everything as it was, also when the
/// process is killed. Throws `error` (io_error).
class file_in_place {
public:
  static constexpr mode_t owner_only = 0600;
  static constexpr mode_t usual = 0666; ///< less what the process's umask takes away

  explicit file_in_place(const std::filesystem::path& path, mode_t mode = owner_only);
  ~file_in_place();
  file_in_place(const file_in_place&) = delete;
  file_in_place& operator=(const file_in_place&) = delete;

  /// Appends.
  void write(std::span<const std::byte> bytes);
  /// Writes through to the disk, and renames.
  void commit();

private:
  void name_beside();
  void close() noexcept;

  std::filesystem::path path_;
  std::filesystem::path beside_; ///< the name that the file has until it takes the place; empty: none yet
  int descriptor_ = -1;
};

} // namespace tropilla
