// Looks up batches of rows: reads, checks and widens them.
#include "src/io/embedding_lookup.hpp"

#include "kernels/tensor_type.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

/// Rows that are read at once: twice the queue's depth, so that it runs dry at the end of a batch only.
constexpr std::size_t batch_rows = 2 * best_row_depth;

std::size_t scratch_bytes(std::size_t row_bytes, std::size_t alignment) noexcept {
  return best_row_depth * max_aligned_bytes(row_bytes, alignment);
}

} // namespace

std::size_t embedding_lookup::memory_bytes(std::size_t row_bytes, std::size_t alignment) noexcept {
  return scratch_bytes(row_bytes, alignment) + batch_rows * row_bytes;
}

embedding_lookup::embedding_lookup(std::unique_ptr<file_reader> reader, const weight_source& source, std::byte* memory)
    : source_(source), row_bytes_(row_bytes(source.type, source.columns)),
      rows_(memory + scratch_bytes(row_bytes_, reader->alignment())), reader_(std::move(reader)),
      scattered_(*reader_, row_bytes_, {memory, scratch_bytes(row_bytes_, reader_->alignment())}) {
  reads_.reserve(batch_rows);
}

std::optional<error> embedding_lookup::read(std::span<const token_id> ids, float* out) {
  for (; !ids.empty(); ids = ids.subspan(reads_.size())) {
    reads_.clear();
    for (std::size_t i = 0; i < std::min(batch_rows, ids.size()); ++i)
      reads_.push_back({source_.file, source_.offset + static_cast<std::uint64_t>(ids[i]) * row_bytes_, row_bytes_,
                        rows_ + i * row_bytes_});
    if (const auto failure = scattered_.read(reads_); !failure.empty())
      return error(errc::io_error, failure);
    for (std::size_t i = 0; i < reads_.size(); ++i, out += source_.columns) {
      const std::span bytes(reads_[i].destination, row_bytes_);
      if (!blocks_are_finite(source_.type, bytes))
        return error(errc::malformed_file,
                     fmt::format("tensor {} has a value or scale that is not finite in row {}", source_.name, ids[i]));
      dequantise(source_.type, bytes, {out, source_.columns});
    }
  }
  return std::nullopt;
}

} // namespace tropilla
