/// Writes GGUF files (version 3): a header built in memory, and a file that appears under its name when it is complete.
///
/// Source: the GGUF specification (ggml-org/ggml, docs/gguf.md).
#pragma once

#include "kernels/tensor_type.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// Collects metadata and tensor infos, in order. Nothing is checked that a reader would check: tests write bad files
/// with it, too.
class gguf_builder {
public:
  /// @pre `alignment` is a power of two; other values than 32 are stored as general.alignment.
  explicit gguf_builder(std::uint32_t version = 3, std::uint32_t alignment = 32);

  void put_u32(std::string_view key, std::uint32_t value);
  void put_i32(std::string_view key, std::int32_t value);
  void put_u64(std::string_view key, std::uint64_t value);
  void put_f32(std::string_view key, float value);
  void put_flag(std::string_view key, bool value);
  void put_text(std::string_view key, std::string_view value);
  void put_texts(std::string_view key, std::span<const std::string> values);
  void put_i32s(std::string_view key, std::span<const std::int32_t> values);
  void put_f32s(std::string_view key, std::span<const float> values);
  /// A value of any type, as it will lie in the file.
  void put_raw(std::string_view key, std::uint32_t type, std::span<const std::byte> value);

  /// Places the tensor behind those before it. `shape[0]` is the number of columns.
  /// Returns its offset from the start of the data. @pre columns are whole blocks of the type
  std::uint64_t add_tensor(std::string_view name, tensor_type type, std::span<const std::uint64_t> shape);
  /// A tensor info as given; takes no room in the data.
  void add_raw_tensor(std::string_view name, std::uint32_t type, std::span<const std::uint64_t> shape,
                      std::uint64_t offset);

  /// All bytes before the data, padded to the alignment.
  [[nodiscard]] std::vector<std::byte> header() const;
  /// Bytes of all tensors, each padded to the alignment.
  [[nodiscard]] std::uint64_t data_bytes() const noexcept { return data_bytes_; }

private:
  void begin(std::string_view key, std::uint32_t type);

  std::uint32_t version_;
  std::uint32_t alignment_;
  std::uint64_t entries_ = 0;
  std::uint64_t tensors_ = 0;
  std::uint64_t data_bytes_ = 0;
  std::string metadata_; ///< bytes, as they will lie in the file
  std::string infos_;
};

/// A file that exists under its name only once it is complete. Until `commit` the bytes are in a file without a name,
/// of which nothing is left however the process ends; where the file system knows no such files, in a temporary one
/// beside it, which the destructor removes.
class pending_file {
public:
  /// Reserves `bytes` on the disk, so that a full one is found out before the work.
  /// Throws `error` (io_error): the folder is missing or can't be written, the disk is full.
  pending_file(std::filesystem::path path, std::uint64_t bytes);
  ~pending_file();
  pending_file(const pending_file&) = delete;
  pending_file& operator=(const pending_file&) = delete;

  /// Any thread; ranges must not overlap. Throws `error` (io_error).
  void write(std::span<const std::byte> bytes, std::uint64_t offset);
  /// Gives the file its name, replacing what had it. Throws `error` (io_error).
  void commit();

private:
  [[noreturn]] void fail(std::string_view doing, int reason) const;
  void create();
  void give_up() noexcept;

  std::filesystem::path path_;
  std::filesystem::path temporary_; ///< beside `path_`
  bool named_ = false;              ///< `temporary_` is there
  std::uint64_t bytes_;
  int fd_ = -1;
};

} // namespace tropilla
