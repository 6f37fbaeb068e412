/// Reads many small ranges that lie scattered over files: the rows of an embedding table that a prompt's tokens name.
#pragma once

#include "src/io/file_reader.hpp"

#include <vector>

namespace tropilla {

struct row_read {
  std::size_t file = 0;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  std::byte* destination = nullptr; ///< of any alignment
};

/// Reads rows through a `file_reader`, on the reader's thread. Rows that repeat, and neighbours that fit one read, are
/// read once. After the first read of as many rows it allocates nothing.
class scattered_reader {
public:
  /// Bytes that `scratch` needs so that the queue can be full of rows of `row_bytes`.
  [[nodiscard]] static std::size_t scratch_bytes(const file_reader& reader, std::size_t row_bytes);

  /// `reader` and `scratch` outlive it; the latter begins at a multiple of the reader's alignment and holds at least
  /// one `max_aligned_bytes` of a row. A reader for rows is made with `scattered`, and deep.
  scattered_reader(file_reader& reader, std::size_t row_bytes, std::span<std::byte> scratch);

  /// Copies all rows to their destinations and returns an empty string, or the sentence of the first read that failed.
  /// @pre no read of the reader is in flight; no row is longer than `row_bytes`.
  [[nodiscard]] std::string read(std::span<const row_read> rows);

private:
  /// One read and the rows in it: [first, last) of `order_`.
  struct range_read {
    std::size_t file;
    aligned_range range;
    std::size_t required;
    std::size_t first, last;
    std::size_t piece; ///< of the scratch, while it is read
  };
  void merge_rows(std::span<const row_read> rows);
  void start(std::size_t& next);
  void copy_rows(const range_read& c, std::span<const row_read> rows) const;

  file_reader& reader_;
  std::size_t piece_bytes_;
  std::span<std::byte> scratch_;
  std::vector<std::size_t> order_; ///< rows by their offset
  std::vector<range_read> ranges_;
  std::vector<std::size_t> free_; ///< pieces of the scratch
  std::vector<read_request> batch_;
};

} // namespace tropilla
