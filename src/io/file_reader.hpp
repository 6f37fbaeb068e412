/// Reads files asynchronously: with io_uring where the kernel allows it, else with a few threads that call pread;
/// through the page cache or around it (O_DIRECT).
///
/// O_DIRECT wants offset, length and destination aligned. A caller that may meet it reads an `align_range` of its
/// range and finds its bytes `skip` bytes into what arrived; with an alignment of 1 the aligned range is the range
/// itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tropilla {

/// The way of bytes from the file to the destination.
enum class io_mode : std::uint8_t {
  automatic, ///< direct when the files together are larger than half of the machine's memory, else buffered
  buffered,  ///< through the page cache: what is read stays there for the next reader
  direct,    ///< O_DIRECT: nothing is pushed out of the page cache; buffered where the file system refuses it
};

/// How reads reach the kernel: io_uring, or pread on a few threads. Writes: io_uring, or pwrite.
enum class io_method : std::uint8_t { automatic, uring, pread };

/// "automatic", "buffered", "direct".
[[nodiscard]] std::string_view to_string(io_mode mode) noexcept;

struct read_request {
  std::size_t file = 0;             ///< index of the file
  std::uint64_t offset = 0;         ///< from its start; a multiple of `alignment()`, as are the next two
  std::byte* destination = nullptr; ///< stays valid until the completion
  std::size_t bytes = 0;            ///< at least 1
  std::uint64_t tag = 0;            ///< comes back with the completion
  /// How many of the bytes must exist; 0: all. The aligned range of a file's last bytes reaches past its end, and bytes
  /// beyond the required ones may be missing there without that being an error.
  std::size_t required = 0;
};

struct read_completion {
  std::uint64_t tag = 0;
  std::string failure;   ///< empty: all required bytes are there; else a sentence with file, offset and cause
  std::size_t bytes = 0; ///< that arrived; at least the required ones when there is no failure
};

/// Used by one thread. Destruction waits for the reads in flight and closes the files.
class file_reader {
public:
  virtual ~file_reader() = default;

  /// Starts reads, with one system call where that is possible. @pre at most `depth()` are then in flight.
  virtual void submit_all(std::span<const read_request> requests) = 0;
  /// Starts one read. @pre fewer than `depth()` are in flight.
  void submit(const read_request& request) { submit_all({&request, 1}); }
  /// Blocks until a read ends, in whatever order they do. @pre one is in flight. Short reads are continued; the end of
  /// the file before the required bytes is a failure. Throws `error` (io_error) only if the kernel's queue breaks.
  [[nodiscard]] virtual read_completion wait() = 0;
  [[nodiscard]] virtual std::size_t in_flight() const noexcept = 0;
  [[nodiscard]] virtual std::size_t depth() const noexcept = 0;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0; ///< "io_uring" or "pread"
  /// The mode of reads now: direct until a file system refuses it, even if only at the first read. Never automatic.
  [[nodiscard]] virtual io_mode mode() const noexcept = 0;
  /// A power of two; 1 when not direct. Stays as it is when `mode()` falls back later.
  [[nodiscard]] virtual std::size_t alignment() const noexcept = 0;
};

/// The best bytes per read. Measured with bench_io on a file of 1 GB, cold, on a virtual disk of about 3 GB/s whose
/// figures vary by a factor of two between runs; io_uring, GB/s, the median of seven alternating runs:
///
///     KiB x depth  256x1  256x4  256x8  1024x1  1024x2  1024x4  1024x8  4096x2  4096x4  8192x4
///     direct        1.12   1.47   1.85    1.45    2.50    2.36    2.62    1.82    1.97    2.19
///     buffered      2.73   2.32   2.97    2.88    2.98    2.95    2.94    2.76    2.81    2.53
///
/// Below 1 MiB a direct read pays too many system calls; above it only staging grows. Two in flight hide a completion;
/// the others are slack for the moments in which their owner packs. 512 scattered rows of 1088 bytes take 21 ms at
/// depth 1, 6.8 at 8, 5.0 at 64, 4.5 at 128 (direct); 21, 7.6, 5.9, 4.9 buffered.
inline constexpr std::size_t best_read_bytes = std::size_t{1} << 20;
inline constexpr std::size_t best_read_depth = 4;
inline constexpr std::size_t best_row_depth = 64;

/// How many reads are in flight and how.
struct reader_options {
  std::size_t depth = best_read_depth;
  io_mode mode = io_mode::buffered;
  io_method method = io_method::automatic;
  bool scattered = false; ///< small ranges here and there: the kernel is told not to read ahead
};

/// Opens the files. Throws `error` (io_error) when one can't be opened, or when io_uring was asked for and is refused.
/// The descriptors stay with what was opened: a file that is replaced meanwhile goes on being read as it was.
[[nodiscard]] std::unique_ptr<file_reader> make_file_reader(std::span<const std::filesystem::path> files,
                                                            const reader_options& options);

/// The smallest aligned range around [offset, offset + bytes).
struct aligned_range {
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  std::size_t skip = 0; ///< where the wanted range begins in it
};
/// @pre `alignment` is a power of two.
[[nodiscard]] aligned_range align_range(std::uint64_t offset, std::size_t bytes, std::size_t alignment) noexcept;

/// Bytes of the largest aligned range of `bytes`, wherever the range lies: what a read buffer must hold.
[[nodiscard]] std::size_t max_aligned_bytes(std::size_t bytes, std::size_t alignment) noexcept;

/// The request for an aligned range: its bytes are at `destination + skip` once it completes.
/// @pre `destination` is aligned and has room for the aligned range.
[[nodiscard]] read_request aligned_request(std::size_t file, const aligned_range& range, std::size_t bytes,
                                           std::byte* destination, std::uint64_t tag) noexcept;

} // namespace tropilla
