// Keys, and entries that are complete.
#include "src/io/packed_cache.hpp"

#include "src/io/packed_file_format.hpp"
#include "src/io/part_file.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
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

packed_mapping::~packed_mapping() {
  ::munmap(const_cast<std::byte*>(begin_), bytes_); // NOLINT(cppcoreguidelines-pro-type-const-cast): for the system
}

packed_file::packed_file(packed_file&& other) noexcept {
  *this = std::move(other);
}

packed_file& packed_file::operator=(packed_file&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  path_.swap(other.path_);
  std::swap(file_bytes_, other.file_bytes_);
  sections_.swap(other.sections_);
  offsets_.swap(other.offsets_);
  checksums_.swap(other.checksums_);
  return *this;
}

packed_file::~packed_file() {
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

std::shared_ptr<const packed_mapping> packed_file::map() const {
  void* memory = ::mmap(nullptr, file_bytes_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (memory == MAP_FAILED)
    return nullptr;
  return std::make_shared<packed_mapping>(static_cast<const std::byte*>(memory), file_bytes_);
}

std::string packed_file::verify(std::size_t section) const {
  const auto& s = sections_[section];
  const auto found = packed_format::checksum_of(descriptor_, offsets_[section], s.bytes);
  if (!found)
    return fmt::format("can't read section {} of {}", s.name, path_.string());
  if (*found != checksums_[section])
    return fmt::format("section {} of {} is damaged: its checksum is {:016x}, not {:016x}; remove it with "
                       "`tropilla cache rm {}`",
                       s.name, path_.string(), *found, checksums_[section], path_.filename().string());
  return {};
}

std::optional<packed_file> packed_cache::open(const fs::path& folder, const packed_key& key,
                                              std::span<const packed_section> sections) {
  packed_file file;
  file.path_ = folder / key.text();
  // O_NONBLOCK: a pipe that somebody put there must not hold us up before it is found to be no file.
  file.descriptor_ = ::open(file.path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file.descriptor_ < 0)
    return std::nullopt;
  auto header = packed_format::read(file.descriptor_);
  if (!header || header->key != key ||
      !std::equal(sections.begin(), sections.end(), header->sections.begin(), header->sections.end()))
    return std::nullopt;
  file.file_bytes_ = header->file_bytes;
  file.sections_ = std::move(header->sections);
  file.offsets_ = std::move(header->offsets);
  file.checksums_ = std::move(header->checksums);
  // Reads leave no trace on many systems (noatime), so the time of change says when an entry was last wanted.
  const timespec now[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  (void)::futimens(file.descriptor_, now);
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
    const bool part = name.ends_with(part_file::suffix);
    const auto stem = part ? name.substr(0, name.size() - part_file::suffix.size()) : name;
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
    entry.last_used = facts.st_mtim.tv_sec;
    if (part)
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
