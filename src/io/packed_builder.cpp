// Builds an entry of the packed cache: locks, reserves, writes from many threads, publishes.
#include "memory/bytes.hpp"
#include "src/files/whole_file.hpp"
#include "src/io/packed_cache.hpp"
#include "src/io/packed_file_format.hpp"
#include "src/io/part_file.hpp"

#include <cassert>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <mutex>
#include <sys/statvfs.h>
#include <unistd.h>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

std::string cannot_write(const fs::path& path, int cause) {
  return fmt::format("can't write {}: {}", path.string(), std::strerror(cause));
}

/// Takes the disk space now, so that a full disk shows before anything was packed. A sentence when there is not enough.
std::string reserve(const part_file& part, const fs::path& folder, std::uint64_t bytes) {
  struct statvfs disk {};
  if (::fstatvfs(part.descriptor(), &disk) == 0) {
    // Asked first: fallocate would take all that is left before it fails, and others need it, too.
    const auto left = static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize;
    if (left < bytes)
      return fmt::format("the packed weights need {} in {}, where {} are left", format_bytes(bytes), folder.string(),
                         format_bytes(left));
  }
  int rc = 0;
  do
    rc = ::fallocate(part.descriptor(), 0, 0, static_cast<off_t>(bytes));
  while (rc != 0 && errno == EINTR);
  // glibc's posix_fallocate would write every block where the file system can't reserve: slower than to do without.
  if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
    rc = ::ftruncate(part.descriptor(), static_cast<off_t>(bytes));
  return rc == 0 ? "" : cannot_write(part.path(), errno);
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return;
  (void)::fsync(fd); // some file systems can't; then a power failure may lose the entry, and the next run rebuilds it
  ::close(fd);
}

} // namespace

struct packed_builder::impl {
  impl(const fs::path& f, const packed_key& key) : folder(f), part(f, key) {}

  fs::path folder;
  part_file part;
  packed_format::file_header header;
  std::unique_ptr<std::atomic<std::uint64_t>[]> written; ///< bytes, by section
  std::atomic<bool> failed{false};
  mutable std::mutex mutex;
  std::string failure;

  /// Keeps the first reason and gives the disk's space and the lock back. Always false.
  bool fail(std::string sentence) {
    const std::lock_guard lock(mutex);
    if (failed.exchange(true))
      return false;
    failure = std::move(sentence);
    part.abandon();
    return false;
  }

  /// Publishes the file. Returns an empty string, or why it can't be published.
  std::string publish(bool drop_cached);
  std::string add_checksums();
};

packed_builder::packed_builder(std::unique_ptr<impl> i) : impl_(std::move(i)) {}
packed_builder::packed_builder(packed_builder&&) noexcept = default;
packed_builder& packed_builder::operator=(packed_builder&&) noexcept = default;
packed_builder::~packed_builder() = default;

bool packed_builder::failed() const noexcept {
  return impl_->failed;
}

std::string packed_builder::failure() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->failure;
}

bool packed_builder::write(std::size_t section, std::uint64_t offset, std::span<const std::byte> bytes) {
  auto& self = *impl_;
  if (self.failed)
    return false;
  if (bytes.empty()) // to sync_file_range, no bytes are all up to the file's end
    return true;
  [[maybe_unused]] const auto whole = self.header.sections[section].bytes;
  assert(offset <= whole && bytes.size() <= whole - offset);
  const std::uint64_t at = self.header.offsets[section] + offset;
  if (const int cause = write_exactly(self.part.descriptor(), at, bytes))
    return self.fail(cannot_write(self.part.path(), cause));
  // Write-back begins at once. Else the file's dirty pages pile up until the kernel stops threads that write, or that
  // read into a memory-limited group, and the fsync at the end would have all of it to do.
  (void)::sync_file_range(self.part.descriptor(), static_cast<off_t>(at), static_cast<off_t>(bytes.size()),
                          SYNC_FILE_RANGE_WRITE);
  self.written[section] += bytes.size();
  return true;
}

std::string packed_builder::impl::add_checksums() {
  for (std::size_t i = 0; i < header.sections.size(); ++i) {
    const auto& s = header.sections[i];
    if (written[i] != s.bytes)
      return fmt::format("section {} of {} is incomplete: {} of {} bytes were written", s.name, part.path().string(),
                         written[i].load(), s.bytes);
    if (!packed_format::visit_checksums(part.descriptor(), header, i, [&](std::size_t block, std::uint64_t checksum) {
          header.checksums[header.first_checksum[i] + block] = checksum;
          return true;
        }))
      return fmt::format("can't read section {} of {} back", s.name, part.path().string());
  }
  return {};
}

std::string packed_builder::impl::publish(bool drop_cached) {
  if (auto sentence = add_checksums(); !sentence.empty())
    return sentence;
  const int fd = part.descriptor();
  if (const int cause = write_exactly(fd, 0, packed_format::write(header)))
    return cannot_write(part.path(), cause);
  // The bytes before the name: a crash in between leaves a .part file and not an entry that lies about its contents.
  if (::fsync(fd) != 0)
    return cannot_write(part.path(), errno);
  if (drop_cached) // clean now, so that it can go; the model's size of it would push out what others read
    (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (!part.rename_to(folder / header.key.text()))
    return cannot_write(folder / header.key.text(), errno);
  sync_folder(folder);
  return {};
}

std::string packed_builder::commit(bool drop_cached) {
  auto& self = *impl_;
  if (self.failed)
    return failure();
  if (auto sentence = self.publish(drop_cached); !sentence.empty())
    self.fail(std::move(sentence));
  return failure();
}

std::variant<packed_builder, packed_refusal> packed_cache::build(const fs::path& folder, const packed_key& key,
                                                                 std::string_view description,
                                                                 std::span<const packed_section> sections) {
  using kind = packed_refusal::kind;
  packed_format::file_header header;
  if (auto sentence = packed_format::lay_out(key, description, sections, header); !sentence.empty())
    return packed_refusal{kind::failed, std::move(sentence)};
  std::error_code cause;
  fs::create_directories(folder, cause);
  if (cause)
    return packed_refusal{kind::failed, fmt::format("can't create {}: {}", folder.string(), cause.message())};

  auto builder = std::make_unique<packed_builder::impl>(folder, key);
  if (builder->part.descriptor() < 0) {
    if (builder->part.cause() == EWOULDBLOCK)
      return packed_refusal{kind::busy, "another process packs these weights"};
    return packed_refusal{kind::failed, cannot_write(builder->part.path(), builder->part.cause())};
  }
  if (open(folder, key, sections))
    return packed_refusal{kind::present, "another process has packed these weights"};
  part_file::remove_leftovers(folder, key);
  auto sentence = reserve(builder->part, folder, header.file_bytes);
  // Provisional, under the .part name: `list` can say what is being built.
  if (sentence.empty())
    if (const int failed = write_exactly(builder->part.descriptor(), 0, packed_format::write(header)))
      sentence = cannot_write(builder->part.path(), failed);
  if (!sentence.empty())
    return packed_refusal{kind::failed, std::move(sentence)};
  builder->written = std::make_unique<std::atomic<std::uint64_t>[]>(header.sections.size());
  builder->header = std::move(header);
  return packed_builder(std::move(builder));
}

} // namespace tropilla
