/// Reads the header of GGUF files (versions 2 and 3, little-endian, split files): metadata and where the tensors lie.
///
/// Source: the GGUF specification (ggml-org/ggml, docs/gguf.md). Every count, length, dimension and offset is checked
/// against the bytes that the file has before anything is allocated for it.
#pragma once

#include "kernels/tensor_type.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace tropilla {

/// An array value. Elements of numbers are widened; arrays of arrays are refused.
struct gguf_array {
  std::variant<std::vector<std::int64_t>, std::vector<std::uint64_t>, std::vector<double>, std::vector<bool>,
               std::vector<std::string>>
      values;
  [[nodiscard]] std::size_t size() const;
};

/// A metadata value; integers are widened to 64 bits, keeping their sign.
using gguf_value = std::variant<std::uint64_t, std::int64_t, double, bool, std::string, gguf_array>;

/// A tensor of the file. `shape[0]` is the fastest dimension (columns), as in the file; at most 4.
struct gguf_tensor {
  std::string name;
  tensor_type type{};
  std::vector<std::uint64_t> shape;
  std::size_t file = 0;     ///< index into `gguf_file::files`
  std::uint64_t offset = 0; ///< of the first byte, from the start of that file
  std::uint64_t bytes = 0;

  [[nodiscard]] std::uint64_t columns() const { return shape.empty() ? 1 : shape[0]; }
  [[nodiscard]] std::uint64_t rows() const;     ///< product of the other dimensions
  [[nodiscard]] std::string shape_text() const; ///< "[576, 49152]"
};

/// The header of a model. Plain data once opened; movable; no descriptor stays open.
class gguf_file {
public:
  /// Opens a file, or all of a split model when given any of its parts (`NAME-00001-of-00003.gguf`).
  /// Throws `error`: io_error (missing, unreadable), malformed_file (anything that contradicts the format),
  /// unsupported (version 1, big-endian, an unknown tensor type).
  [[nodiscard]] static gguf_file open(const std::filesystem::path& path);
  /// Parses a header held in memory (fuzzing, tests); tensors' offsets are checked against `file_bytes`.
  [[nodiscard]] static gguf_file parse(std::span<const std::byte> header, std::uint64_t file_bytes,
                                       const std::string& name);

  std::uint32_t version = 0;
  std::vector<std::filesystem::path> files;
  std::vector<std::uint64_t> file_bytes;
  std::map<std::string, gguf_value, std::less<>> metadata;
  std::vector<gguf_tensor> tensors;

  [[nodiscard]] const gguf_tensor* find_tensor(std::string_view name) const;

  /// Typed look-ups. `require_*` throw `error` (malformed_file) naming the key when it is missing;
  /// all throw when the value has another type or does not fit.
  [[nodiscard]] std::optional<std::uint64_t> find_integer(std::string_view key) const;
  [[nodiscard]] std::optional<double> find_number(std::string_view key) const;
  [[nodiscard]] std::optional<bool> find_flag(std::string_view key) const;
  [[nodiscard]] const std::string* find_text(std::string_view key) const;
  [[nodiscard]] const gguf_array* find_array(std::string_view key) const;
  [[nodiscard]] std::uint64_t require_integer(std::string_view key) const;
  [[nodiscard]] const std::string& require_text(std::string_view key) const;

private:
  std::unordered_map<std::string, std::size_t> tensor_index_;
};

} // namespace tropilla
