// Chooses a reader, and computes aligned ranges.
#include "src/io/file_reader.hpp"

#include "memory/rounding.hpp"
#include "src/io/open_files.hpp"

#include <system_error>
#include <unistd.h>

namespace tropilla {
namespace {

/// Chooses a mode. Files that the page cache can't keep would only push out what it does keep.
io_mode mode_for(std::span<const std::filesystem::path> paths) {
  std::uintmax_t bytes = 0;
  for (const auto& path : paths) {
    std::error_code failed;
    const auto size = std::filesystem::file_size(path, failed);
    bytes += failed ? 0 : size; // opening it will say why
  }
  const auto pages = ::sysconf(_SC_PHYS_PAGES);
  const auto page = ::sysconf(_SC_PAGESIZE);
  const auto memory =
      pages > 0 && page > 0 ? static_cast<std::uintmax_t>(pages) * static_cast<std::uintmax_t>(page) : 0;
  return bytes > memory / 2 ? io_mode::direct : io_mode::buffered;
}

} // namespace

std::string_view to_string(io_mode mode) noexcept {
  switch (mode) {
  case io_mode::automatic:
    return "automatic";
  case io_mode::buffered:
    return "buffered";
  case io_mode::direct:
    return "direct";
  }
  return "unknown";
}

std::unique_ptr<file_reader> make_file_reader(std::span<const std::filesystem::path> files,
                                              const reader_options& options) {
  const auto mode = options.mode == io_mode::automatic ? mode_for(files) : options.mode;
  auto opened = std::make_unique<open_files>(files, mode, options.scattered);
  const bool uring = options.method == io_method::uring || (options.method == io_method::automatic && uring_works());
  return uring ? make_uring_reader(std::move(opened), options.depth)
               : make_pread_reader(std::move(opened), options.depth);
}

aligned_range align_range(std::uint64_t offset, std::size_t bytes, std::size_t alignment) noexcept {
  const auto skip = static_cast<std::size_t>(offset % alignment);
  return {offset - skip, round_up(skip + bytes, alignment), skip};
}

std::size_t max_aligned_bytes(std::size_t bytes, std::size_t alignment) noexcept {
  return align_range(alignment - 1, bytes, alignment).bytes;
}

read_request aligned_request(std::size_t file, const aligned_range& range, std::size_t bytes, std::byte* destination,
                             std::uint64_t tag) noexcept {
  return {file, range.offset, destination, range.bytes, tag, range.skip + bytes};
}

} // namespace tropilla
