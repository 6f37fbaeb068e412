/// A folder of packed weights: later starts map or read directly what one process packed, and several processes share
/// it.
///
/// It knows nothing of models. An entry is named by a key (a hash of all that its contents depend on) and holds
/// sections of bytes. Files appear complete, by rename, or not at all; whatever else lies in the folder (damaged, of
/// another version, half-written) counts as absent and is built anew. Nothing here ends a run: what can't be had is a
/// reason.
///
/// Sections have checksums, block by block, and readers compare them: a disk may give other bytes than
/// were written, also the second time. What follows from key and sections is one content, so a damaged range is mended
/// in place, by a process that has the right bytes.
///
///     KEY        a complete entry
///     KEY.part   one that is being built; its builder holds an exclusive flock on it
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tropilla {

/// 128 bits, written as 32 hexadecimal digits.
struct packed_key {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] static std::optional<packed_key> parse(std::string_view text);
  bool operator==(const packed_key&) const = default;
};

/// Hashes (XXH3, 128 bits) whatever the contents of an entry depend on. What is fed is length-prefixed, so that two
/// texts in a row do not hash like their concatenation.
class packed_key_hash {
public:
  packed_key_hash();
  ~packed_key_hash();
  packed_key_hash(packed_key_hash&&) noexcept;
  packed_key_hash& operator=(packed_key_hash&&) noexcept;

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text);
  void add(std::uint64_t number);
  /// The identity of a file: length, time of change to the nanosecond, device, inode. Throws `error` (io_error).
  void add_file(const std::filesystem::path& path);
  [[nodiscard]] packed_key key() const;

private:
  struct state;
  std::unique_ptr<state> state_;
};

/// A section of an entry: bytes that are stored under a name of at most 47 bytes.
struct packed_section {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t block_bytes = std::uint64_t{1} << 18; ///< that have one checksum: a multiple of 4096
  bool operator==(const packed_section&) const = default;
};

namespace packed_format {
struct file_header;
}

class packed_mapping; // src/io/packed_mapping.hpp

/// A complete entry, open. Const functions may be called by any thread. Removing or replacing the entry does not
/// disturb it: the file lives as long as a process has it open or mapped.
class packed_file {
public:
  packed_file(packed_file&&) noexcept;
  packed_file& operator=(packed_file&&) noexcept;
  ~packed_file();

  /// The file's path, for a `file_reader`. An entry that replaces this one has the same bytes at the same offsets: they
  /// follow from key and sections.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::size_t sections() const noexcept;
  [[nodiscard]] const packed_section& section(std::size_t section) const;
  /// The offset of a section from the file's start; a multiple of 4096, and the file has bytes up to the next multiple
  /// after the section's end.
  [[nodiscard]] std::uint64_t offset(std::size_t section) const;
  [[nodiscard]] std::uint64_t file_bytes() const noexcept;
  /// A new mapping, which may outlive this. Null when the system refuses.
  [[nodiscard]] std::shared_ptr<packed_mapping> map() const;
  /// Whether bytes are those that were written at `offset` of a section: compares the checksums of its blocks. @pre
  /// `offset` is a multiple of the section's `block_bytes`, and the bytes end at one or at the section's end.
  [[nodiscard]] bool is_sound(std::size_t section, std::uint64_t offset,
                              std::span<const std::byte> bytes) const noexcept;
  /// Reads a section and compares its checksums: an empty string, or a sentence. Costs a read of the section.
  [[nodiscard]] std::string verify(std::size_t section) const;
  /// Writes a range of a section over again, and with it the header and the file's length: the file is what it was
  /// built as, as far as it was mended. An empty string, or why not: other bytes than were written first, an entry that
  /// was removed or replaced meanwhile, or the system's reason. @pre as `is_sound`.
  [[nodiscard]] std::string mend(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Removes the entry, unless another has taken its name. An empty string, or the system's reason.
  [[nodiscard]] std::string remove() const;

private:
  friend class packed_cache;
  packed_file() = default;

  int descriptor_ = -1;
  std::filesystem::path path_;
  std::shared_ptr<const packed_format::file_header> header_;
};

/// An entry on its way. Destroyed before `commit`, or failed, it leaves nothing behind; killed, it leaves a .part file
/// that the next builder removes.
class packed_builder {
public:
  packed_builder(packed_builder&&) noexcept;
  packed_builder& operator=(packed_builder&&) noexcept;
  ~packed_builder();

  /// Writes a range of a section; any thread, ranges in any order, each byte once. False once anything has failed, and
  /// then does nothing.
  bool write(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes);
  [[nodiscard]] bool failed() const noexcept;
  /// Why, in a sentence; empty as long as nothing failed. Any thread.
  [[nodiscard]] std::string failure() const;
  /// Checksums, fsync, rename. An empty string, or why there is no entry now. @pre no `write` is under way. Reads all
  /// that was written once more, from the page cache where memory allows. `drop_cached`: leave nothing of it in the
  /// page cache, for processes that will read directly; a process that maps the entry next wants the pages to stay.
  [[nodiscard]] std::string commit(bool drop_cached = false);

private:
  friend class packed_cache;
  struct impl;
  explicit packed_builder(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

/// The reason why nothing is built.
struct packed_refusal {
  enum class kind : std::uint8_t {
    busy,    ///< another thread or process builds this entry
    present, ///< it was completed meanwhile: open it
    failed,  ///< the folder or the disk won't have it
  };
  kind why = kind::failed;
  std::string sentence;
};

/// The facts of an entry that `tropilla cache ls` shows.
struct packed_entry {
  enum class state : std::uint8_t {
    complete,
    building, ///< a process holds its lock
    partial,  ///< left by a process that was killed
    unusable, ///< damaged, or of another version
  };
  std::string key;
  std::string description;    ///< what its builder said; empty when unusable. Untrusted text
  std::uint64_t bytes = 0;    ///< that it takes on the disk
  std::int64_t last_used = 0; ///< seconds since 1970: the last `open` or `commit`
  state what = state::complete;
};

/// Opens, builds, lists and removes entries. All functions may be called by any thread of any process at once.
class packed_cache {
public:
  /// The entry, if it is complete and has exactly these sections. Marks it as used, by its time of access. Reads the
  /// header alone.
  [[nodiscard]] static std::optional<packed_file> open(const std::filesystem::path& folder, const packed_key& key,
                                                       std::span<const packed_section> sections);

  /// Begins to build an entry: makes the folder, takes the lock without waiting, removes what killed builders left and
  /// reserves the disk space. `description` is for people: the model's name; cut after 255 bytes.
  [[nodiscard]] static std::variant<packed_builder, packed_refusal> build(const std::filesystem::path& folder,
                                                                          const packed_key& key,
                                                                          std::string_view description,
                                                                          std::span<const packed_section> sections);

  /// The entry, whatever its sections are; does not mark it as used.
  [[nodiscard]] static std::optional<packed_file> open(const std::filesystem::path& folder, const packed_key& key);

  /// By key. An absent folder has no entries. Throws `error` (io_error) when it can't be read.
  [[nodiscard]] static std::vector<packed_entry> list(const std::filesystem::path& folder);

  /// Removes an entry and what a killed builder left of it: an empty string, or why not (it is being built, or the
  /// system's reason). Processes that have it open or mapped keep it.
  [[nodiscard]] static std::string remove(const std::filesystem::path& folder, const packed_key& key);
};

} // namespace tropilla
