/// Reads rows of an embedding that is not in memory from the model's file and widens them to float32.
#pragma once

#include "src/io/scattered_reader.hpp"
#include "src/model/llama_config.hpp"
#include "tropilla/error.hpp"
#include "tropilla/types.hpp"

#include <optional>

namespace tropilla {

/// Looks up rows with a reader. Used by one thread.
class embedding_lookup {
public:
  /// Bytes of memory that it needs for rows of so many bytes and a reader of this alignment.
  [[nodiscard]] static std::size_t memory_bytes(std::size_t row_bytes, std::size_t alignment) noexcept;

  /// `source` is the table, `memory` has `memory_bytes` at a multiple of the reader's alignment; both outlive it.
  embedding_lookup(std::unique_ptr<file_reader> reader, const weight_source& source, std::byte* memory);

  /// `out[i]` becomes row `ids[i]`; `out` is `[ids.size(), source.columns]`. Returns the error when it failed
  /// (io_error, malformed_file).
  [[nodiscard]] std::optional<error> read(std::span<const token_id> ids, float* out);

private:
  const weight_source& source_;
  std::size_t row_bytes_;
  std::byte* rows_;
  std::unique_ptr<file_reader> reader_;
  scattered_reader scattered_;
  std::vector<row_read> reads_;
};

} // namespace tropilla
