// Lays out, seals and reads headers of packed files, and believes nothing in them unchecked.
#include "src/io/packed_file_format.hpp"

#include "memory/rounding.hpp"
#include "src/files/whole_file.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <memory>
#include <sys/stat.h>
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> // the same functions, by what the processor has: the library itself is built for SSE2
#endif

namespace tropilla::packed_format {
namespace {

constexpr std::uint64_t longest_file = std::uint64_t{1} << 62; // sums of two such lengths don't overflow

std::uint64_t padded(std::uint64_t bytes) {
  return round_up(bytes, alignment);
}

/// A text field up to its first zero; empty when it has none.
std::optional<std::string> text_of(std::span<const char> field) {
  const auto end = std::find(field.begin(), field.end(), '\0');
  if (end == field.end())
    return std::nullopt;
  return std::string(field.begin(), end);
}

std::size_t checksums_at(std::size_t sections) {
  return sizeof(fixed_part) + sections * sizeof(table_entry);
}

void put_text(std::span<char> field, std::string_view text) {
  std::copy_n(text.begin(), std::min(text.size(), field.size() - 1), field.begin());
}

std::uint64_t blocks_of(const packed_section& s) {
  return divide_up(s.bytes, s.block_bytes);
}

/// Counts the checksums and finds the first of each section. False when there are too many, or when a section's block
/// size is impossible.
bool count_checksums(file_header& h) {
  std::uint64_t all = 0;
  h.first_checksum.clear();
  for (const auto& s : h.sections) {
    if (s.block_bytes == 0 || s.block_bytes % alignment != 0)
      return false;
    h.first_checksum.push_back(static_cast<std::size_t>(all));
    const auto blocks = blocks_of(s);
    if (blocks > max_checksums - all)
      return false;
    all += blocks;
  }
  h.checksums.assign(static_cast<std::size_t>(all), 0);
  return true;
}

/// Offsets and the file's length from the sections' lengths. False when they overflow.
bool lay_out_sections(file_header& h) {
  std::uint64_t at = header_bytes(h.sections.size(), h.checksums.size());
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

std::optional<file_header> parse(std::span<std::byte> bytes, const fixed_part& fixed, std::uint64_t file_bytes) {
  const std::uint64_t stored = fixed.checksum;
  seal(bytes);
  fixed_part sealed;
  std::memcpy(&sealed, bytes.data(), sizeof sealed);
  if (sealed.checksum != stored)
    return std::nullopt;
  file_header h;
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
    h.sections.push_back({*name, entry.bytes, entry.block_bytes});
  }
  if (!count_checksums(h) || h.checksums.size() != fixed.checksums || !lay_out_sections(h) ||
      h.file_bytes != fixed.file_bytes || h.file_bytes != file_bytes)
    return std::nullopt;
  std::memcpy(h.checksums.data(), bytes.data() + checksums_at(h.sections.size()),
              h.checksums.size() * sizeof(std::uint64_t));
  return h;
}

} // namespace

bool file_header::is_sound(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes) const noexcept {
  const auto& s = sections[section];
  auto checksum = checksums.begin() + static_cast<std::ptrdiff_t>(first_checksum[section] + offset / s.block_bytes);
  for (; !bytes.empty(); ++checksum) {
    const auto block = bytes.first(std::min<std::uint64_t>(bytes.size(), s.block_bytes));
    if (XXH3_64bits(block.data(), block.size()) != *checksum)
      return false;
    bytes = bytes.subspan(block.size());
  }
  return true;
}

std::size_t header_bytes(std::size_t sections, std::size_t checksums) noexcept {
  return static_cast<std::size_t>(padded(checksums_at(sections) + checksums * sizeof(std::uint64_t)));
}

std::string lay_out(const packed_key& key, std::string_view description, std::span<const packed_section> sections,
                    file_header& out) {
  if (sections.size() > max_sections)
    return fmt::format("a packed file has at most {} sections, not {}", max_sections, sections.size());
  for (const auto& s : sections)
    if (s.name.size() >= sizeof(table_entry::name) || s.name.find('\0') != std::string::npos)
      return fmt::format("the name \"{}\" of a section is longer than {} bytes", s.name, sizeof(table_entry::name) - 1);
  out.key = key;
  out.description = description;
  out.sections.assign(sections.begin(), sections.end());
  if (!lay_out_sections(out))
    return "the sections are longer than any file";
  if (!count_checksums(out))
    return fmt::format("a packed file has at most {} blocks, whose bytes are a multiple of {}", max_checksums,
                       alignment);
  return lay_out_sections(out) ? "" : "the sections are longer than any file"; // behind the checksums, now
}

void seal(std::span<std::byte> bytes) noexcept {
  auto* field = bytes.data() + offsetof(fixed_part, checksum);
  std::memset(field, 0, sizeof(std::uint64_t));
  const std::uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  std::memcpy(field, &checksum, sizeof checksum);
}

std::vector<std::byte> write(const file_header& h) {
  std::vector<std::byte> bytes(header_bytes(h.sections.size(), h.checksums.size()));
  fixed_part fixed{};
  std::copy(std::begin(magic), std::end(magic), fixed.magic);
  fixed.version = version;
  fixed.sections = static_cast<std::uint32_t>(h.sections.size());
  fixed.key_high = h.key.high;
  fixed.key_low = h.key.low;
  fixed.file_bytes = h.file_bytes;
  fixed.checksums = h.checksums.size();
  put_text(fixed.description, h.description);
  std::memcpy(bytes.data(), &fixed, sizeof fixed);
  for (std::size_t i = 0; i < h.sections.size(); ++i) {
    table_entry entry{};
    entry.bytes = h.sections[i].bytes;
    entry.block_bytes = h.sections[i].block_bytes;
    put_text(entry.name, h.sections[i].name);
    std::memcpy(bytes.data() + sizeof fixed + i * sizeof entry, &entry, sizeof entry);
  }
  std::memcpy(bytes.data() + checksums_at(h.sections.size()), h.checksums.data(),
              h.checksums.size() * sizeof(std::uint64_t));
  seal(bytes);
  return bytes;
}

std::optional<file_header> read(int descriptor) {
  struct stat facts {};
  fixed_part fixed;
  if (::fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode) ||
      !read_exactly(descriptor, 0, std::as_writable_bytes(std::span(&fixed, 1))))
    return std::nullopt;
  const auto file_bytes = static_cast<std::uint64_t>(facts.st_size);
  if (std::memcmp(fixed.magic, magic, sizeof magic) != 0 || fixed.version != version || fixed.sections > max_sections ||
      fixed.checksums > max_checksums || header_bytes(fixed.sections, fixed.checksums) > file_bytes)
    return std::nullopt;
  std::vector<std::byte> bytes(header_bytes(fixed.sections, fixed.checksums));
  if (!read_exactly(descriptor, 0, bytes))
    return std::nullopt;
  fixed_part again; // the table that is read is the one that was counted
  std::memcpy(&again, bytes.data(), sizeof again);
  if (again.version != version || again.sections != fixed.sections || again.checksums != fixed.checksums)
    return std::nullopt;
  fixed = again;
  return parse(bytes, fixed, file_bytes);
}

bool visit_checksums(int descriptor, const file_header& h, std::size_t section,
                     const std::function<bool(std::size_t block, std::uint64_t checksum)>& visit) {
  const auto& s = h.sections[section];
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), &XXH3_freeState);
  if (!state)
    return false;
  std::vector<std::byte> buffer(std::min<std::uint64_t>(s.block_bytes, std::uint64_t{1} << 20));
  for (std::uint64_t begin = 0, block = 0; begin < s.bytes; begin += s.block_bytes, ++block) {
    const std::uint64_t end = begin + std::min(s.block_bytes, s.bytes - begin);
    XXH3_64bits_reset(state.get());
    for (std::uint64_t at = begin; at < end;) {
      const std::span piece(buffer.data(), std::min<std::uint64_t>(end - at, buffer.size()));
      if (!read_exactly(descriptor, h.offsets[section] + at, piece))
        return false;
      XXH3_64bits_update(state.get(), piece.data(), piece.size());
      at += piece.size();
    }
    if (!visit(static_cast<std::size_t>(block), XXH3_64bits_digest(state.get())))
      return false;
  }
  return true;
}

} // namespace tropilla::packed_format
