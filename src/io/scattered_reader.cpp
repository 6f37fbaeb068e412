// Turns rows into aligned ranges, ranges into reads, and reads back into rows.
#include "src/io/scattered_reader.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <tuple>

namespace tropilla {

std::size_t scattered_reader::scratch_bytes(const file_reader& reader, std::size_t row_bytes) {
  return reader.depth() * max_aligned_bytes(row_bytes, reader.alignment());
}

scattered_reader::scattered_reader(file_reader& reader, std::size_t row_bytes, std::span<std::byte> scratch)
    : reader_(reader), piece_bytes_(max_aligned_bytes(row_bytes, reader.alignment())), scratch_(scratch) {
  const std::size_t pieces = std::min(reader.depth(), scratch.size() / piece_bytes_);
  assert(pieces > 0);
  for (std::size_t i = 0; i < pieces; ++i)
    free_.push_back(i);
  batch_.reserve(pieces);
}

void scattered_reader::merge_rows(std::span<const row_read> rows) {
  order_.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    order_[i] = i;
  std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(rows[a].file, rows[a].offset) < std::tie(rows[b].file, rows[b].offset);
  });
  ranges_.clear();
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const auto& row = rows[order_[i]];
    assert(max_aligned_bytes(row.bytes, reader_.alignment()) <= piece_bytes_);
    if (!ranges_.empty() && ranges_.back().file == row.file) {
      auto& last = ranges_.back();
      // Only what touches is read together: a read of a gap costs more than it saves.
      const auto wide = align_range(
          last.range.offset, static_cast<std::size_t>(row.offset - last.range.offset) + row.bytes, reader_.alignment());
      if (row.offset <= last.range.offset + last.range.bytes && wide.bytes <= piece_bytes_) {
        last.range.bytes = std::max(last.range.bytes, wide.bytes);
        last.required = std::max(last.required, static_cast<std::size_t>(row.offset - last.range.offset) + row.bytes);
        last.last = i + 1;
        continue;
      }
    }
    const auto range = align_range(row.offset, row.bytes, reader_.alignment());
    ranges_.push_back({row.file, range, range.skip + row.bytes, i, i + 1, 0});
  }
}

void scattered_reader::start(std::size_t& next) {
  batch_.clear();
  for (; next < ranges_.size() && !free_.empty(); ++next) {
    auto& c = ranges_[next];
    c.piece = free_.back();
    free_.pop_back();
    batch_.push_back(
        {c.file, c.range.offset, scratch_.data() + c.piece * piece_bytes_, c.range.bytes, next, c.required});
  }
  reader_.submit_all(batch_);
}

void scattered_reader::copy_rows(const range_read& c, std::span<const row_read> rows) const {
  const auto* bytes = scratch_.data() + c.piece * piece_bytes_;
  for (std::size_t i = c.first; i < c.last; ++i) {
    const auto& row = rows[order_[i]];
    std::memcpy(row.destination, bytes + (row.offset - c.range.offset), row.bytes);
  }
}

std::string scattered_reader::read(std::span<const row_read> rows) {
  merge_rows(rows);
  std::string failure;
  const std::size_t pieces = free_.size();
  for (std::size_t next = 0, done = 0; done < next || next < ranges_.size();) {
    // Half of the queue at a time, so that a system call starts many reads and the disk never runs dry.
    if (next < ranges_.size() && 2 * free_.size() >= pieces)
      start(next);
    auto c = reader_.wait();
    ++done;
    const auto& finished = ranges_[c.tag];
    if (c.failure.empty()) {
      copy_rows(finished, rows);
    } else if (failure.empty()) {
      failure = std::move(c.failure);
      ranges_.resize(next); // start no more
    }
    free_.push_back(finished.piece);
  }
  return failure;
}

} // namespace tropilla
