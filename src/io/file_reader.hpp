/// Asynchronous reads from a model's files: io_uring where the kernel allows it, else a thread that calls pread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tropilla {

struct read_request {
  std::size_t file = 0;             ///< index of the file
  std::uint64_t offset = 0;         ///< from its start
  std::byte* destination = nullptr; ///< stays valid until the completion
  std::size_t bytes = 0;
  std::uint64_t tag = 0; ///< comes back with the completion
};

struct read_completion {
  std::uint64_t tag = 0;
  std::string failure; ///< empty: all bytes are there; else a sentence with file, offset and cause
};

/// Used by one thread. Destruction waits for the reads in flight and closes the files.
class file_reader {
public:
  virtual ~file_reader() = default;

  /// Starts a read. @pre fewer than `depth()` are in flight.
  virtual void submit(const read_request& request) = 0;
  /// Blocks until a read ends. @pre one is in flight. Short reads are continued; the end of the file is a failure.
  [[nodiscard]] virtual read_completion wait() = 0;
  [[nodiscard]] virtual std::size_t in_flight() const noexcept = 0;
  [[nodiscard]] virtual std::size_t depth() const noexcept = 0;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0; ///< "io_uring" or "pread"
};

enum class io_method : std::uint8_t { automatic, uring, pread };

/// Opens the files. Throws `error` (io_error) when one can't be opened, or when io_uring was asked for and is refused.
[[nodiscard]] std::unique_ptr<file_reader> make_file_reader(std::span<const std::filesystem::path> files,
                                                            std::size_t depth, io_method method = io_method::automatic);

} // namespace tropilla
