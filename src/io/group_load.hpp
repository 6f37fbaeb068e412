/// The groups that a weight_loader has in flight, their reads, and where the bytes come from. Inside of src/io.
#pragma once

#include "src/io/packed_cache.hpp"
#include "src/io/staging_buffers.hpp"
#include "src/io/weight_loader.hpp"

#include <array>
#include <chrono>
#include <fmt/format.h>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

namespace tropilla {

/// The source of a group's bytes.
enum class origin : std::uint8_t { model, packed, mapping, pinned };
inline constexpr std::array<std::string_view, 4> origin_names = {"the model's files", "packed weights",
                                                                 "mapped packed weights", "pinned memory"};

/// The load of a group: counts down its reads that are left, keeps the first failure and answers when all are done. The
/// loader's reading thread sets its fields before it starts the reads; the thread that finishes the last read reads
/// them.
class group_load {
public:
  group_load(std::size_t number, weight_loader::done_callback done) : group(number), done_(std::move(done)) {}

  void expect(std::size_t reads) noexcept { left_ += reads; }
  void fail(const error& why) {
    const std::lock_guard lock(mutex_);
    if (!failure_)
      failure_.emplace(why);
  }
  [[nodiscard]] bool failed() {
    const std::lock_guard lock(mutex_);
    return failure_.has_value();
  }
  /// Takes the failure out. @pre failed, and no read is left
  [[nodiscard]] error take_failure() { return *std::exchange(failure_, std::nullopt); }
  /// True for the thread that finishes the last read: it has to conclude the load.
  [[nodiscard]] bool finish(std::size_t reads) noexcept { return left_.fetch_sub(reads) == reads; }
  void answer() { done_(failure_ ? &*failure_ : nullptr); }

  std::size_t group;
  std::byte* memory = nullptr; ///< where the processor puts the group together
  origin from = origin::model;
  bool again = false;      ///< it failed once, where it was packed
  bool from_model = false; ///< it failed where packed weights are read: only the model's files are left
  bool claimed = false;    ///< it fills a range of a lost mapping

  /// For devices without host-visible memory: the staging buffer, and the final destination.
  std::shared_ptr<staging_buffers::buffer> staging_buffer;
  std::byte* target = nullptr;
  std::size_t bytes = 0;

private:
  std::atomic<std::size_t> left_{1}; ///< beginning to read it counts as one
  std::mutex mutex_;
  std::optional<error> failure_;
  weight_loader::done_callback done_;
};

/// A read: a chunk of the model's files into a read buffer, or a piece of packed weights to its destination.
struct chunk_read {
  weight_chunk chunk;
  std::byte* destination = nullptr; ///< of a piece
};

/// The reads of a group, in the queue of the reading thread.
struct group_reads {
  std::size_t group = 0;
  std::byte* memory = nullptr;
  std::shared_ptr<group_load> load;
  origin from = origin::model;
  std::vector<chunk_read> reads{};
  std::size_t next = 0;       ///< the first read to submit
  std::size_t reads_done = 0; ///< or given up
  bool begun = false;         ///< its load counts the reads
  std::chrono::steady_clock::time_point began{};
  std::shared_ptr<const packed_file> entry{}; ///< that it is read from
};

/// The failure of packed weights that are not what was written.
[[nodiscard]] inline error other_checksum() {
  return {errc::malformed_file, "its bytes have another checksum than those that were written"};
}

/// The failure of a group whose lost mapping can't be filled.
[[nodiscard]] inline error no_memory_for(std::string_view group) {
  return {errc::over_budget, fmt::format("the system has no memory for {} in place of packed weights that are "
                                         "mapped and were changed; close something else that takes memory",
                                         group)};
}

/// The failure of a group that was not begun.
[[nodiscard]] inline error closed_early() {
  return {errc::cancelled, "the loader was closed before the weights were read"};
}

/// A read in flight. An entry that belongs to no group is free.
struct read_in_flight {
  group_reads* of = nullptr;
  std::size_t read = 0; ///< its index among the group's reads
  std::size_t buffer = 0;
  aligned_range range;
};

/// Finds an entry for `r` among the reads: the tag of its request.
[[nodiscard]] std::size_t tag_for(std::vector<read_in_flight>& reads, const read_in_flight& r);

/// The reads of a group of packed weights, each of whole blocks that have a checksum, and of about `read_bytes`.
[[nodiscard]] std::vector<chunk_read> cut_packed(const packed_file& entry, const weight_group_layout& group,
                                                 std::byte* memory, std::size_t read_bytes);

/// The reads of a group of a model's files, each with room in a read buffer. Writes zeros between tensors.
[[nodiscard]] std::vector<chunk_read> cut_model(const weight_group_layout& group, std::byte* memory,
                                                std::size_t buffer_bytes);

/// Sizes of the staging buffers of a device without host-visible memory, with `cached` bytes of groups that stay in
/// pinned memory.
[[nodiscard]] staging_buffers::sizes staging_buffer_sizes(const llama_layout& layout, const loader_shape& shape,
                                                          std::size_t cached);

} // namespace tropilla
