/// Defines the header of a packed-weights file, as it lies in the file. Inside of src/io, and for its tests.
///
/// A file is a header (fixed part, section table, checksums, zeros up to a multiple of 4096) and the sections in the
/// table's order, each starting at a multiple of 4096 and padded to one. Where a section starts follows from the
/// lengths before it and is not stored, so there is nothing to contradict them. Each section is cut into blocks of its
/// own size, the last one shorter, and each block has a checksum: what is read of a section can be checked by itself.
/// Numbers are in the machine's byte order: a file from another kind of machine has the wrong version.
#pragma once

#include "src/io/packed_cache.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace tropilla::packed_format {

inline constexpr std::size_t alignment = 4096;
inline constexpr std::uint32_t version = 2;           ///< of this header; the packing's own is part of the key
inline constexpr std::size_t max_sections = 1 << 16;  ///< a table of 4 MiB
inline constexpr std::size_t max_checksums = 1 << 22; ///< 32 MiB; of 1 TiB in blocks of 256 KiB
inline constexpr char magic[8] = {'T', 'R', 'O', 'P', 'P', 'A', 'C', 'K'};

/// The first bytes of the file. Texts are padded with zeros and end with at least one.
struct fixed_part {
  char magic[8];
  std::uint32_t version;
  std::uint32_t sections;
  std::uint64_t key_high, key_low;
  std::uint64_t file_bytes;
  std::uint64_t checksum;  ///< XXH3 of the whole header, this field taken as 0
  std::uint64_t checksums; ///< of all sections' blocks
  char description[256];
};

/// One per section, right after the fixed part. Behind the table are the checksums, section by section: XXH3 of each
/// block, 64 bits, without the section's padding; 0 while the file is being built.
struct table_entry {
  std::uint64_t bytes;
  std::uint64_t block_bytes;
  char name[48];
};

static_assert(sizeof(fixed_part) == 312 && sizeof(table_entry) == 64);

/// A header that was checked.
struct file_header {
  packed_key key;
  std::string description;
  std::uint64_t file_bytes = 0;
  std::vector<packed_section> sections;
  std::vector<std::uint64_t> offsets;      ///< of the sections, from the file's start
  std::vector<std::size_t> first_checksum; ///< of each section, in `checksums`
  std::vector<std::uint64_t> checksums;    ///< of the blocks of all sections

  /// Compares bytes of a section with its checksums. @pre `offset` is a multiple of its `block_bytes`, and the bytes
  /// end at one or at the section's end.
  [[nodiscard]] bool is_sound(std::size_t section, std::uint64_t offset,
                              std::span<const std::byte> bytes) const noexcept;
};

/// Bytes of a header with so many sections and checksums, a multiple of `alignment`.
[[nodiscard]] std::size_t header_bytes(std::size_t sections, std::size_t checksums) noexcept;

/// Computes where sections lie and how long the file is; returns a sentence when they can't be written: a name too
/// long, too many sections or blocks, blocks that are no multiple of `alignment`, lengths that overflow.
[[nodiscard]] std::string lay_out(const packed_key& key, std::string_view description,
                                  std::span<const packed_section> sections, file_header& out);

/// The bytes of a header, sealed.
[[nodiscard]] std::vector<std::byte> write(const file_header& h);

/// Recomputes the checksum field of a header's bytes.
void seal(std::span<std::byte> bytes) noexcept;

/// Reads and checks the header of an open file. Nothing that is in the file is believed before it was compared with the
/// file's own length: empty when anything is wrong.
[[nodiscard]] std::optional<file_header> read(int descriptor);

/// Reads a section of an open file, at most 1 MiB or a block at a time, and calls `visit(block, checksum)` for each of
/// its blocks. False when it can't be read, or when `visit` returns false.
[[nodiscard]] bool visit_checksums(int descriptor, const file_header& h, std::size_t section,
                                   const std::function<bool(std::size_t block, std::uint64_t checksum)>& visit);

} // namespace tropilla::packed_format
