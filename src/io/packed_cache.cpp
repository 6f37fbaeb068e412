// Names entries by keys, and opens, lists and removes them.
#include "src/io/packed_cache.hpp"

#include "src/files/whole_file.hpp"
#include "src/io/packed_file_format.hpp"
#include "src/io/packed_mapping.hpp"
#include "src/io/part_file.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <xxhash.h>

namespace tropilla {

namespace fs = std::filesystem;

std::string packed_key::text() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

std::optional<packed_key> packed_key::parse(std::string_view text) {
  if (text.size() != 32 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return std::nullopt;
  packed_key key;
  std::from_chars(text.data(), text.data() + 16, key.high, 16);
  std::from_chars(text.data() + 16, text.data() + 32, key.low, 16);
  return key;
}

struct packed_key_hash::state {
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash{XXH3_createState(), &XXH3_freeState};
};

packed_key_hash::packed_key_hash() : state_(std::make_unique<state>()) {
  if (!state_->hash)
    throw std::bad_alloc();
  XXH3_128bits_reset(state_->hash.get());
}
packed_key_hash::~packed_key_hash() = default;
packed_key_hash::packed_key_hash(packed_key_hash&&) noexcept = default;
packed_key_hash& packed_key_hash::operator=(packed_key_hash&&) noexcept = default;

void packed_key_hash::add(std::span<const std::byte> bytes) {
  const std::uint64_t length = bytes.size();
  XXH3_128bits_update(state_->hash.get(), &length, sizeof length);
  XXH3_128bits_update(state_->hash.get(), bytes.data(), bytes.size());
}

void packed_key_hash::add(std::string_view text) {
  add(std::as_bytes(std::span(text)));
}

void packed_key_hash::add(std::uint64_t number) {
  add(std::as_bytes(std::span(&number, 1)));
}

void packed_key_hash::add_file(const fs::path& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0)
    throw error(errc::io_error, fmt::format("can't read {}: {}", path.string(), std::strerror(errno)));
  for (const auto fact : {static_cast<std::uint64_t>(facts.st_size), static_cast<std::uint64_t>(facts.st_mtim.tv_sec),
                          static_cast<std::uint64_t>(facts.st_mtim.tv_nsec), static_cast<std::uint64_t>(facts.st_dev),
                          static_cast<std::uint64_t>(facts.st_ino)})
    add(fact);
}

packed_key packed_key_hash::key() const {
  const auto hash = XXH3_128bits_digest(state_->hash.get());
  return {hash.high64, hash.low64};
}

packed_file::packed_file(packed_file&& other) noexcept {
  *this = std::move(other);
}

packed_file& packed_file::operator=(packed_file&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  path_.swap(other.path_);
  header_.swap(other.header_);
  return *this;
}

packed_file::~packed_file() {
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

std::size_t packed_file::sections() const noexcept {
  return header_->sections.size();
}

const packed_section& packed_file::section(std::size_t section) const {
  return header_->sections[section];
}

std::uint64_t packed_file::offset(std::size_t section) const {
  return header_->offsets[section];
}

std::uint64_t packed_file::file_bytes() const noexcept {
  return header_->file_bytes;
}

std::shared_ptr<packed_mapping> packed_file::map() const {
  return packed_mapping::make(descriptor_, header_);
}

bool packed_file::is_sound(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes) const noexcept {
  return header_->is_sound(section, offset, bytes);
}

std::string packed_file::verify(std::size_t section) const {
  const auto& name = header_->sections[section].name;
  const auto* const expected = header_->checksums.data() + header_->first_checksum[section];
  std::string damage;
  const bool whole =
      packed_format::visit_checksums(descriptor_, *header_, section, [&](std::size_t block, std::uint64_t found) {
        if (found != expected[block])
          damage = fmt::format("section {} of {} is damaged: the checksum of its block {} is {:016x}, not {:016x}",
                               name, path_.string(), block, found, expected[block]);
        return damage.empty();
      });
  return whole || !damage.empty() ? damage : fmt::format("can't read section {} of {}", name, path_.string());
}

std::string packed_file::mend(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes) const {
  const auto reason = [this](std::string_view why) { return fmt::format("can't mend {}: {}", path_.string(), why); };
  if (!is_sound(section, offset, bytes))
    return reason("the model's files give other bytes");
  const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0)
    return reason(std::strerror(errno));
  std::string failure;
  struct stat facts {};
  if (!part_file::is_named(descriptor_, path_) || ::fstat(fd, &facts) != 0)
    failure = reason("it was removed or replaced");
  else if (static_cast<std::uint64_t>(facts.st_size) != header_->file_bytes &&
           ::ftruncate(fd, static_cast<off_t>(header_->file_bytes)) != 0)
    failure = reason(std::strerror(errno));
  else if (int cause = write_exactly(fd, header_->offsets[section] + offset, bytes))
    failure = reason(std::strerror(cause));
  else if (cause = write_exactly(fd, 0, packed_format::write(*header_)); cause != 0)
    failure = reason(std::strerror(cause));
  ::close(fd);
  return failure;
}

std::string packed_file::remove() const {
  if (part_file::is_named(descriptor_, path_) && ::unlink(path_.c_str()) != 0 && errno != ENOENT)
    return fmt::format("can't remove {}: {}", path_.string(), std::strerror(errno));
  return {};
}

std::optional<packed_file> packed_cache::open(const fs::path& folder, const packed_key& key) {
  packed_file file;
  file.path_ = folder / key.text();
  // O_NONBLOCK: a pipe in the entry's place must not hold us up before it is found to be no file.
  file.descriptor_ = ::open(file.path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file.descriptor_ < 0)
    return std::nullopt;
  auto header = packed_format::read(file.descriptor_);
  if (!header || header->key != key)
    return std::nullopt;
  file.header_ = std::make_shared<const packed_format::file_header>(std::move(*header));
  return file;
}

std::optional<packed_file> packed_cache::open(const fs::path& folder, const packed_key& key,
                                              std::span<const packed_section> sections) {
  auto file = open(folder, key);
  if (!file || !std::ranges::equal(sections, file->header_->sections))
    return std::nullopt;
  // Reads leave no trace on many systems (noatime), so it is written. The time of change stays: it shows whether a
  // process wrote into a file that is mapped.
  const timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  (void)::futimens(file->descriptor_, now);
  return file;
}

std::vector<packed_entry> packed_cache::list(const fs::path& folder) {
  std::vector<packed_entry> entries;
  std::error_code failed;
  fs::directory_iterator at(folder, failed);
  if (failed == std::errc::no_such_file_or_directory)
    return entries;
  for (; !failed && at != fs::directory_iterator(); at.increment(failed)) {
    const auto name = at->path().filename().string();
    const bool is_part_file = name.ends_with(part_file::suffix);
    const auto stem = is_part_file ? name.substr(0, name.size() - part_file::suffix.size()) : name;
    if (!packed_key::parse(stem))
      continue;
    const int fd = ::open(at->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
      continue; // gone meanwhile, or no file
    struct stat facts {};
    (void)::fstat(fd, &facts);
    const auto header = packed_format::read(fd);
    packed_entry entry;
    entry.key = stem;
    entry.description = header ? header->description : "";
    entry.bytes = static_cast<std::uint64_t>(facts.st_blocks) * 512; // a file of 1 TiB and no blocks takes nothing
    entry.last_used = facts.st_atim.tv_sec;
    if (is_part_file)
      entry.what = part_file::is_locked(at->path()) ? packed_entry::state::building : packed_entry::state::partial;
    else
      entry.what = header && header->key.text() == stem ? packed_entry::state::complete : packed_entry::state::unusable;
    ::close(fd);
    entries.push_back(std::move(entry));
  }
  if (failed)
    throw error(errc::io_error, fmt::format("can't read {}: {}", folder.string(), failed.message()));
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return std::pair(a.key, a.what) < std::pair(b.key, b.what); });
  return entries;
}

std::string packed_cache::remove(const fs::path& folder, const packed_key& key) {
  if (!part_file::remove_leftover(folder, key))
    return fmt::format("{} is being built by another process; it can be removed when that ends", key.text());
  const auto path = folder / key.text();
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fmt::format("can't remove {}: {}", path.string(), std::strerror(errno));
  return {};
}

} // namespace tropilla
