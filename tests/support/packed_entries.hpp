/// Small entries of a packed cache: three sections, one of them empty, none a multiple of a page, one of five blocks.
#pragma once

#include "src/io/packed_cache.hpp"
#include "src/io/packed_mapping.hpp"

#include "tests/support/tiny_model.hpp"

#include <stdexcept>

namespace tropilla::testing {

/// A folder that is not there yet, and is gone afterwards.
struct packed_folder {
  explicit packed_folder(const char* name) : path(scratch() / "packed" / name) { std::filesystem::remove_all(path); }
  ~packed_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  packed_folder(const packed_folder&) = delete;
  packed_folder& operator=(const packed_folder&) = delete;
  std::filesystem::path path;
};

inline packed_key key_of(std::uint64_t number) {
  return {0xabcdef, number};
}

inline std::vector<packed_section> sections() {
  return {{"embedding", 5000}, {"nothing", 0}, {"layer 0", 9 * 4096 + 1, 8192}};
}

/// Blocks of all of them.
inline constexpr std::size_t checksums = 1 + 0 + 5;

/// What a section of the tests holds.
inline std::vector<std::byte> section_bytes(std::size_t section) {
  std::vector<std::byte> bytes(sections()[section].bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 7 + i / 251 + section);
  return bytes;
}

/// Writes all sections. False when a write failed.
inline bool write_all(packed_builder& builder) {
  bool whole = true;
  for (std::size_t i = 0; i < sections().size(); ++i)
    whole = builder.write(i, 0, section_bytes(i)) && whole;
  return whole;
}

/// Builds and commits an entry; throws with the reason when that fails.
inline void build_whole(const std::filesystem::path& folder, const packed_key& key) {
  auto result = packed_cache::build(folder, key, "a model", sections());
  if (const auto* refusal = std::get_if<packed_refusal>(&result))
    throw std::runtime_error(refusal->sentence);
  auto& builder = std::get<packed_builder>(result);
  (void)write_all(builder);
  if (const auto failure = builder.commit(); !failure.empty())
    throw std::runtime_error(failure);
}

} // namespace tropilla::testing
