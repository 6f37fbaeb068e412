// Measures read bandwidth of a file by mode, method, bytes per read and depth. The constants of src/io rest on it.
//
//   bench_io FILE                         the whole table
//   bench_io FILE direct io_uring 1024 4  one row: mode, method, KiB per read, depth
//   bench_io FILE rows                    512 scattered rows of 1088 bytes: how long, by mode, method and depth
//
// The file's pages are dropped from the page cache before each figure (posix_fadvise), so that the disk is measured,
// and each reads the next 192 MiB of the file, because a disk may remember, too. The best of three rounds: what the
// disk can do, not what the neighbours let it.
#include "memory/rounding.hpp"
#include "src/io/read_speed.hpp"
#include "src/io/scattered_reader.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t kib = 1024;
constexpr std::size_t max_bytes = 192 * kib * kib;

struct release {
  void operator()(std::byte* p) const { std::free(p); }
};
using buffer = std::unique_ptr<std::byte, release>;

buffer allocate(std::size_t bytes) {
  buffer b(static_cast<std::byte*>(std::aligned_alloc(4096, round_up(bytes, 4096))));
  std::fill_n(b.get(), bytes, std::byte{1}); // page faults are not the disk's
  return b;
}

void drop_cached(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ::fdatasync(fd) != 0 || ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
    throw error(errc::io_error, fmt::format("can't drop {} from the page cache", path.string()));
  ::close(fd);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check(const std::string& failure) {
  if (!failure.empty())
    throw error(errc::io_error, failure);
}

/// The place at which the next row begins to read.
std::size_t& position() {
  static std::size_t bytes = 0;
  return bytes;
}

/// GB/s of consecutive reads.
double bandwidth(const std::filesystem::path& path, const reader_options& how, std::size_t bytes) {
  drop_cached(path);
  const read_speed found = measure_reads(path, how, {bytes, position() / bytes, max_bytes});
  position() += found.bytes;
  return found.bytes_per_second() / 1e9;
}

/// Milliseconds to read scattered rows, best of three.
double rows(const std::filesystem::path& path, const reader_options& how) {
  constexpr std::size_t count = 512;
  constexpr std::size_t row_bytes = 1088; // 2048 columns of Q4_0 and their scales
  const std::size_t in_file = std::filesystem::file_size(path) / row_bytes;
  const auto destination = allocate(count * row_bytes);
  double best = 1e9;
  for (unsigned seed = 0; seed < 3; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<row_read> wanted;
    for (std::size_t i = 0; i < count; ++i)
      wanted.push_back({0, random() % in_file * row_bytes, row_bytes, destination.get() + i * row_bytes});
    drop_cached(path);
    const auto reader = make_file_reader({&path, 1}, how);
    const std::size_t scratch_bytes = scattered_reader::scratch_bytes(*reader, row_bytes);
    const auto scratch = allocate(scratch_bytes);
    scattered_reader scattered(*reader, row_bytes, {scratch.get(), scratch_bytes});
    const auto start = std::chrono::steady_clock::now();
    check(scattered.read(wanted));
    best = std::min(best, seconds_since(start));
  }
  return best * 1e3;
}

struct way {
  io_mode mode;
  io_method method;
};
constexpr way ways[] = {{io_mode::direct, io_method::uring},
                        {io_mode::direct, io_method::pread},
                        {io_mode::buffered, io_method::uring},
                        {io_mode::buffered, io_method::pread}};

std::string title(const way& w) {
  return fmt::format("{:<8}  {:<8}", to_string(w.mode), w.method == io_method::uring ? "io_uring" : "pread");
}

void whole_table(const std::filesystem::path& path) {
  constexpr std::size_t depths[] = {1, 2, 4, 8, 16};
  constexpr std::size_t sizes[] = {256 * kib, 1024 * kib, 4096 * kib, 8192 * kib};
  constexpr std::size_t count = std::size(ways);
  double best[count][std::size(sizes)][std::size(depths)] = {};
  for (int round = 0; round < 3; ++round)
    for (std::size_t w = 0; w < count; ++w)
      for (std::size_t s = 0; s < std::size(sizes); ++s)
        for (std::size_t d = 0; d < std::size(depths); ++d)
          best[w][s][d] =
              std::max(best[w][s][d],
                       bandwidth(path, {.depth = depths[d], .mode = ways[w].mode, .method = ways[w].method}, sizes[s]));
  fmt::print("GB/s            KiB per read   depth 1      2      4      8     16\n");
  for (std::size_t w = 0; w < count; ++w)
    for (std::size_t s = 0; s < std::size(sizes); ++s) {
      fmt::print("{}  {:>8}      ", title(ways[w]), sizes[s] / kib);
      for (const double figure : best[w][s])
        fmt::print("  {:5.2f}", figure);
      fmt::print("\n");
    }
}

void rows_table(const std::filesystem::path& path) {
  fmt::print("ms for 512 rows     depth 1      8     32     64    128\n");
  for (const way& w : ways) {
    fmt::print("{}", title(w));
    for (const std::size_t depth : {1, 8, 32, 64, 128})
      fmt::print("  {:5.1f}", rows(path, {.depth = depth, .mode = w.mode, .method = w.method, .scattered = true}));
    fmt::print("\n");
  }
}

void one_row(const std::filesystem::path& path, char** arguments) {
  for (const way& w : ways) {
    const std::string method = w.method == io_method::uring ? "io_uring" : "pread";
    if (to_string(w.mode) == arguments[0] && method == arguments[1]) {
      const std::size_t depth = std::clamp(std::stoul(arguments[3]), 1UL, 1024UL);
      const std::size_t bytes = std::clamp(std::stoul(arguments[2]), 4UL, 65536UL) * kib;
      fmt::print("{}  {:.3f} GB/s\n", title(w),
                 bandwidth(path, {.depth = depth, .mode = w.mode, .method = w.method}, bytes));
      return;
    }
  }
  throw error(errc::invalid_argument, "no such mode and method");
}

} // namespace

int main(int count, char** arguments) {
  try {
    if (count == 3 && std::string_view(arguments[2]) == "rows")
      rows_table(arguments[1]);
    else if (count == 6)
      one_row(arguments[1], arguments + 2);
    else if (count == 2)
      whole_table(arguments[1]);
    else
      throw error(errc::invalid_argument, "usage: bench_io FILE [rows | MODE METHOD KIB DEPTH]");
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_io: {}\n", e.what());
    return 2;
  }
}
