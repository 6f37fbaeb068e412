/// Defines the bytes of a file of KV pages, which later runs of the same model read.
///
/// In the machine's byte order:
///
///     header     4096 bytes, `kv_file_header`, zero behind it
///     slots      of `kv_slot_bytes` each: `kv_slot_header`, the page, and zeros or leftovers up to the slot's end
///
/// A slot whose header does not check is free. Checksums of headers are XXH64 (their own field taken as 0), a slot's
/// with the file's seed, so that no slot of another file passes; checksums of pages are XXH3.
#pragma once

#include "kernels/kv_cache.hpp"
#include "memory/rounding.hpp"
#include "src/io/packed_cache.hpp"
#include "src/model/page_store.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace tropilla {

struct kv_file_header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t page_tokens;
  std::uint64_t identity_high, identity_low;
  std::uint64_t page_bytes;
  std::uint64_t slot_bytes;
  std::uint64_t seed;
  std::uint64_t reserved; ///< 0
  std::uint64_t checksum;
};
static_assert(sizeof(kv_file_header) == 72);

struct kv_slot_header {
  std::uint64_t key_high, key_low;
  std::uint64_t before_high, before_low; ///< the key of the page before it
  std::array<token_id, kv_page_tokens> tokens;
  std::uint64_t used;  ///< the greater, the later
  std::uint32_t depth; ///< pages before it that were known when it was stored
  std::uint32_t zero;  ///< 0
  std::uint64_t page_checksum;
  std::uint64_t reserved[8]; ///< 0
  std::uint64_t checksum;

  [[nodiscard]] page_key key() const noexcept { return {key_high, key_low}; }
  [[nodiscard]] page_key before() const noexcept { return {before_high, before_low}; }
};
static_assert(sizeof(kv_slot_header) == 256);

inline constexpr std::size_t kv_slot_alignment = 4096; ///< of direct reads
inline constexpr std::uint64_t kv_file_header_bytes = kv_slot_alignment;
/// What counts uses stays below this, so that it never overflows.
inline constexpr std::uint64_t max_kv_uses = std::uint64_t{1} << 62;

/// A slot's bytes in the file, and of its image in memory.
[[nodiscard]] constexpr std::size_t kv_slot_bytes(std::size_t page_bytes) noexcept {
  return round_up(sizeof(kv_slot_header) + page_bytes, kv_slot_alignment);
}
[[nodiscard]] constexpr std::uint64_t kv_slot_offset(std::uint64_t slot, std::size_t slot_bytes) noexcept {
  return kv_file_header_bytes + slot * slot_bytes;
}

[[nodiscard]] kv_slot_header make_kv_slot_header(const page_key& before, const page_key& key,
                                                 std::span<const token_id> tokens) noexcept;
/// Whether a slot holds what a reader wants, checksums aside.
[[nodiscard]] bool is_page(const kv_slot_header& h, const page_key& before, const page_key& key,
                           std::span<const token_id> tokens) noexcept;

[[nodiscard]] std::uint64_t kv_page_checksum(std::span<const std::byte> page) noexcept;
/// Fills in the checksum of a header.
void seal(kv_slot_header& h, std::uint64_t seed) noexcept;
/// Whether a slot is in use and its header is what was written.
[[nodiscard]] bool is_sound(const kv_slot_header& h, std::uint64_t seed) noexcept;

[[nodiscard]] kv_file_header make_kv_file_header(const packed_key& identity, std::size_t page_bytes,
                                                 std::uint64_t seed) noexcept;
/// An empty string, or why this is no file of such pages: "it is of version 7".
[[nodiscard]] std::string mismatch(const kv_file_header& h, const packed_key& identity, std::size_t page_bytes);
/// Whether a file begins as these files do, of whatever version.
[[nodiscard]] bool has_kv_magic(std::span<const std::byte> first_bytes) noexcept;

} // namespace tropilla
