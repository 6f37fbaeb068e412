/// Defines files that hold the keys and values of a sequence's tokens, so that it goes on at once in another process.
///
/// A file is, in the machine's byte order (another kind of machine finds the wrong magic number):
///
///     header       128 bytes, `session_header`
///     tokens       int32 each
///     model name   for messages
///     note         bytes of the program's: a conversation
///     pages        for each 32 tokens, and what is left of them: the page, then its checksum
///
/// A page is the bytes of its layers, from the first to the last, each as `kernels/kv_cache.hpp` describes it, whatever
/// devices they were on. What lies behind the last token is zero. Checksums are XXH64: of the header (its own field
/// taken as 0), of tokens, name and note together, and of each page with its number as the seed.
#pragma once

#include "kernels/kv_cache.hpp"
#include "src/files/whole_file.hpp"
#include "src/io/packed_cache.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// Bytes of tokens, name and note together; keys and values are read page by page.
inline constexpr std::size_t max_session_texts = std::size_t{16} << 20;

/// The properties that must be the same in the runtime that saved a session and the one that restores it.
struct session_shape {
  packed_key model; ///< `fingerprint_of`
  kv_type type = kv_type::f16;
  bool precise = false; ///< computed with activations in float32
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t key_size = 0;
  std::uint32_t value_size = 0;

  [[nodiscard]] std::size_t layer_bytes() const noexcept {
    return kv_layer_bytes(type, kv_heads, key_size, value_size);
  }
  [[nodiscard]] std::size_t page_bytes() const noexcept { return layers * layer_bytes(); }
};

/// The header as it lies in the file.
struct session_header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t kv_type; ///< 0: f16, 1: bf16, 2: q8_0
  std::uint64_t model_high, model_low;
  std::uint32_t precise;
  std::uint32_t page_tokens;
  std::uint32_t layers, kv_heads, key_size, value_size;
  std::uint64_t tokens;
  std::uint64_t name_bytes;
  std::uint64_t note_bytes;
  std::uint64_t page_bytes; ///< without its checksum
  std::uint64_t file_bytes;
  std::uint64_t text_checksum; ///< of tokens, name and note
  std::uint64_t reserved[2];   ///< 0
  std::uint64_t checksum;
};
static_assert(sizeof(session_header) == 128);

/// The facts of a checked header.
struct session_facts {
  session_shape shape;
  std::size_t tokens = 0;
  std::size_t name_bytes = 0;
  std::size_t note_bytes = 0;
  std::uint64_t text_checksum = 0;

  [[nodiscard]] std::size_t pages() const noexcept { return kv_pages_for(tokens); }
  /// The offset at which a page begins; for the page behind the last, the file's length.
  [[nodiscard]] std::uint64_t page_offset(std::size_t page) const noexcept {
    return sizeof(session_header) + tokens * sizeof(token_id) + name_bytes + note_bytes +
           page * std::uint64_t{shape.page_bytes() + sizeof(std::uint64_t)};
  }
};

/// Checks the first bytes of a file of `file_bytes` bytes, so that every length in it fits the file. `name` is the
/// file's, for messages. Throws `error`: malformed_file, unsupported (another version).
[[nodiscard]] session_facts parse_session_header(std::span<const std::byte> header, std::uint64_t file_bytes,
                                                 std::string_view name);

/// A session on its way to the disk: pages in order, then `commit`. Destroyed before, it leaves nothing. Throws `error`
/// (io_error).
class session_writer {
public:
  session_writer(const std::filesystem::path& path, const session_shape& shape, std::span<const token_id> tokens,
                 std::string_view model_name, std::string_view note);
  /// `bytes`: `page_bytes()` of the shape.
  void add_page(std::span<const std::byte> bytes);
  void commit();

private:
  file_in_place file_;
  std::uint64_t pages_ = 0;
};

/// A session that was saved. The constructor reads everything but the pages. Throws `error`: io_error, malformed_file,
/// unsupported.
class session_reader {
public:
  explicit session_reader(const std::filesystem::path& path);

  [[nodiscard]] const std::string& name() const noexcept { return name_; } ///< the file's
  [[nodiscard]] const session_facts& facts() const noexcept { return facts_; }
  [[nodiscard]] const std::vector<token_id>& tokens() const noexcept { return tokens_; }
  [[nodiscard]] const std::string& note() const noexcept { return note_; }
  /// Throws `error` (invalid_argument) with what differs, unless a runtime of this shape can go on with the session.
  void require(const session_shape& shape, std::string_view model_name) const;
  /// Reads a page and compares its checksum. Throws `error` (io_error, malformed_file).
  void read_page(std::size_t page, std::span<std::byte> into) const;

private:
  std::string name_;
  whole_file file_;
  session_facts facts_;
  std::vector<token_id> tokens_;
  std::string model_name_, note_;
};

} // namespace tropilla
