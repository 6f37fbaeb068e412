/// Reads the header of one GGUF file byte by byte. Behind `gguf_file`; nothing else needs it.
#pragma once

#include "src/model/gguf.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tropilla {

/// Text from a file, fit for a message: in quotes, control characters and invalid bytes escaped, at most 80 bytes.
[[nodiscard]] std::string in_quotes(std::string_view text);

/// Reads little-endian values in order from memory or from a file, of which it holds one window at a time.
/// Every read is checked against the bytes that are left.
class header_cursor {
public:
  header_cursor(std::span<const std::byte> bytes, std::string name)
      : name_(std::move(name)), window_(bytes), end_(bytes.size()) {}
  /// `descriptor` stays open, and the caller's, while the cursor lives.
  header_cursor(int descriptor, std::uint64_t bytes, std::string name)
      : name_(std::move(name)), descriptor_(descriptor), end_(bytes) {}

  /// Names what is being read, for messages: "the metadata", "tensor 7 of 272".
  void enter(std::string part) { part_ = std::move(part); }

  [[nodiscard]] std::uint64_t position() const noexcept { return window_start_ + used_; }
  [[nodiscard]] std::uint64_t remaining() const noexcept { return end_ - position(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  template <class T>
  [[nodiscard]] T number(std::string_view what) {
    if (window_.size() - used_ < sizeof(T))
      refill(sizeof(T), what);
    T value;
    std::memcpy(&value, window_.data() + used_, sizeof(T));
    used_ += sizeof(T);
    return value;
  }

  /// A string: its length (64 bits), then its bytes.
  [[nodiscard]] std::string text(std::string_view what);

  /// A count of things that take at least `min_bytes` each: refused when the file can't hold them.
  [[nodiscard]] std::uint64_t count(std::uint64_t min_bytes, std::string_view what);

  /// Throws `error` with this file's name and the part being read before the sentence.
  [[noreturn]] void fail(errc code, std::string_view sentence) const;

private:
  /// Makes the next `wanted` bytes (few) part of the window.
  void refill(std::size_t wanted, std::string_view what);

  std::string name_;
  std::string part_ = "the header";
  std::vector<std::byte> buffer_; ///< behind the window when reading a file
  int descriptor_ = -1;
  std::span<const std::byte> window_;
  std::uint64_t window_start_ = 0; ///< offset of the window in the file
  std::size_t used_ = 0;           ///< bytes of the window that were read
  std::uint64_t end_ = 0;
};

struct gguf_header {
  std::uint32_t version = 0;
  std::map<std::string, gguf_value, std::less<>> metadata;
  std::vector<gguf_tensor> tensors; ///< with `file` as given and offsets from the file's start
};

/// Reads and checks a header; tensors must lie inside `file_bytes` and must not overlap.
/// Throws `error`: malformed_file, unsupported, io_error.
[[nodiscard]] gguf_header read_header(header_cursor& in, std::uint64_t file_bytes, std::size_t file);

} // namespace tropilla
