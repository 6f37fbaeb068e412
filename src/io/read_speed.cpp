// Keeps a queue of reads full until there are enough.
#include "src/io/read_speed.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fmt/format.h>
#include <sys/mman.h>
#include <system_error>

namespace tropilla {
namespace {

struct release {
  void operator()(std::byte* p) const { std::free(p); }
};

std::size_t size_of(const std::filesystem::path& file) {
  std::error_code failed;
  const auto bytes = std::filesystem::file_size(file, failed);
  if (failed)
    throw error(errc::io_error, fmt::format("can't read {}: {}", file.string(), failed.message()));
  return bytes;
}

} // namespace

read_speed measure_reads(const std::filesystem::path& file, const reader_options& how, const read_trial& trial) {
  const std::size_t whole = size_of(file) / trial.read_bytes;
  if (whole == 0)
    throw error(errc::invalid_argument,
                fmt::format("{} is shorter than a read of {}", file.string(), format_bytes(trial.read_bytes)));
  const std::size_t reads = std::clamp<std::size_t>(trial.max_bytes / trial.read_bytes, 1, whole);
  const std::size_t bytes = trial.read_bytes * how.depth;
  // Large pages, like a device's memory: a direct read into pages of 4 KiB is cut into as many pieces, and was seen at
  // a third of the speed.
  constexpr std::size_t large_page = std::size_t{2} << 20;
  const std::size_t rounded = round_up(bytes, large_page);
  const std::unique_ptr<std::byte, release> memory(static_cast<std::byte*>(std::aligned_alloc(large_page, rounded)));
  if (!memory)
    throw error(errc::io_error, fmt::format("the system has no {} for a buffer", format_bytes(bytes)));
  (void)::madvise(memory.get(), rounded, MADV_HUGEPAGE);
  std::fill_n(memory.get(), bytes, std::byte{1}); // page faults are not the disk's

  const auto reader = make_file_reader({&file, 1}, how);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::size_t begun = 0;
  const auto submit = [&](std::uint64_t slot) {
    const std::uint64_t index = (trial.first + begun++) % whole;
    reader->submit({0, index * trial.read_bytes, memory.get() + slot * trial.read_bytes, trial.read_bytes, slot, 0});
  };
  while (begun < std::min(how.depth, reads))
    submit(begun);
  while (reader->in_flight() > 0) {
    const auto c = reader->wait();
    if (!c.failure.empty())
      throw error(errc::io_error, c.failure);
    if (begun < reads && seconds() < trial.max_seconds)
      submit(c.tag);
  }
  return {begun * trial.read_bytes, seconds(), reader->mode()};
}

} // namespace tropilla
