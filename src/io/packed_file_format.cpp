// Headers of packed files: laying out, sealing, and believing nothing.
#include "src/io/packed_file_format.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

namespace tropilla::packed_format {
namespace {

constexpr std::uint64_t longest_file = std::uint64_t{1} << 62; // sums of two such lengths don't overflow

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

/// A text field up to its first zero; empty when it has none.
std::optional<std::string> text_of(std::span<const char> field) {
  const auto end = std::find(field.begin(), field.end(), '\0');
  if (end == field.end())
    return std::nullopt;
  return std::string(field.begin(), end);
}

void put_text(std::span<char> field, std::string_view text) {
  std::copy_n(text.begin(), std::min(text.size(), field.size() - 1), field.begin());
}

/// Offsets and the file's length from the sections' lengths. False when they overflow.
bool place_sections(header& h) {
  std::uint64_t at = header_bytes(h.sections.size());
  h.offsets.clear();
  for (const auto& s : h.sections) {
    h.offsets.push_back(at);
    if (s.bytes > longest_file || at + s.bytes > longest_file)
      return false;
    at += padded(s.bytes);
  }
  h.file_bytes = at;
  return true;
}

std::optional<header> parse(std::span<std::byte> bytes, const fixed_part& fixed, std::uint64_t file_bytes) {
  const std::uint64_t stored = fixed.checksum;
  seal(bytes);
  fixed_part sealed;
  std::memcpy(&sealed, bytes.data(), sizeof sealed);
  if (sealed.checksum != stored)
    return std::nullopt;
  header h;
  h.key = {fixed.key_high, fixed.key_low};
  const auto description = text_of(fixed.description);
  if (!description)
    return std::nullopt;
  h.description = *description;
  for (std::uint32_t i = 0; i < fixed.sections; ++i) {
    table_entry entry;
    std::memcpy(&entry, bytes.data() + sizeof fixed + i * sizeof entry, sizeof entry);
    const auto name = text_of(entry.name);
    if (!name)
      return std::nullopt;
    h.sections.push_back({*name, entry.bytes});
    h.checksums.push_back(entry.checksum);
  }
  if (!place_sections(h) || h.file_bytes != fixed.file_bytes || h.file_bytes != file_bytes)
    return std::nullopt;
  return h;
}

} // namespace

std::size_t header_bytes(std::size_t sections) noexcept {
  return static_cast<std::size_t>(padded(sizeof(fixed_part) + sections * sizeof(table_entry)));
}

std::string lay_out(const packed_key& key, std::string_view description, std::span<const packed_section> sections,
                    header& out) {
  if (sections.size() > most_sections)
    return fmt::format("a packed file has at most {} sections, not {}", most_sections, sections.size());
  for (const auto& s : sections)
    if (s.name.size() >= sizeof(table_entry::name) || s.name.find('\0') != std::string::npos)
      return fmt::format("the name \"{}\" of a section is longer than {} bytes", s.name, sizeof(table_entry::name) - 1);
  out.key = key;
  out.description = description;
  out.sections.assign(sections.begin(), sections.end());
  out.checksums.assign(sections.size(), 0);
  return place_sections(out) ? "" : "the sections are longer than any file";
}

void seal(std::span<std::byte> bytes) noexcept {
  auto* field = bytes.data() + offsetof(fixed_part, checksum);
  std::memset(field, 0, sizeof(std::uint64_t));
  const std::uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  std::memcpy(field, &checksum, sizeof checksum);
}

std::vector<std::byte> write(const header& h) {
  std::vector<std::byte> bytes(header_bytes(h.sections.size()));
  fixed_part fixed{};
  std::copy(std::begin(magic), std::end(magic), fixed.magic);
  fixed.version = version;
  fixed.sections = static_cast<std::uint32_t>(h.sections.size());
  fixed.key_high = h.key.high;
  fixed.key_low = h.key.low;
  fixed.file_bytes = h.file_bytes;
  put_text(fixed.description, h.description);
  std::memcpy(bytes.data(), &fixed, sizeof fixed);
  for (std::size_t i = 0; i < h.sections.size(); ++i) {
    table_entry entry{};
    entry.bytes = h.sections[i].bytes;
    entry.checksum = h.checksums[i];
    put_text(entry.name, h.sections[i].name);
    std::memcpy(bytes.data() + sizeof fixed + i * sizeof entry, &entry, sizeof entry);
  }
  seal(bytes);
  return bytes;
}

bool read_exactly(int descriptor, std::uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const auto n = ::pread(descriptor, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return true;
}

std::optional<header> read(int descriptor) {
  struct stat facts {};
  fixed_part fixed;
  if (::fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode) ||
      !read_exactly(descriptor, 0, std::as_writable_bytes(std::span(&fixed, 1))))
    return std::nullopt;
  const auto file_bytes = static_cast<std::uint64_t>(facts.st_size);
  if (std::memcmp(fixed.magic, magic, sizeof magic) != 0 || fixed.version != version ||
      fixed.sections > most_sections || header_bytes(fixed.sections) > file_bytes)
    return std::nullopt;
  std::vector<std::byte> bytes(header_bytes(fixed.sections));
  if (!read_exactly(descriptor, 0, bytes))
    return std::nullopt;
  std::memcpy(&fixed, bytes.data(), sizeof fixed); // the table that is read is the one that was counted
  if (fixed.version != version || header_bytes(fixed.sections) != bytes.size())
    return std::nullopt;
  return parse(bytes, fixed, file_bytes);
}

std::optional<std::uint64_t> checksum_of(int descriptor, std::uint64_t offset, std::uint64_t bytes) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), &XXH3_freeState);
  if (!state || XXH3_64bits_reset(state.get()) != XXH_OK)
    return std::nullopt;
  std::vector<std::byte> block(std::min<std::uint64_t>(bytes, std::uint64_t{1} << 20));
  while (bytes > 0) {
    const std::span part(block.data(), std::min<std::uint64_t>(bytes, block.size()));
    if (!read_exactly(descriptor, offset, part))
      return std::nullopt;
    XXH3_64bits_update(state.get(), part.data(), part.size());
    offset += part.size();
    bytes -= part.size();
  }
  return XXH3_64bits_digest(state.get());
}

} // namespace tropilla::packed_format
