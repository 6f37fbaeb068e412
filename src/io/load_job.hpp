/// The work that a weight_loader has under way: groups, their reads, and where the bytes come from. Inside of src/io.
#pragma once

#include "src/io/packed_cache.hpp"
#include "src/io/staging_buffers.hpp"
#include "src/io/weight_loader.hpp"

#include <array>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

namespace tropilla {

/// The source of a group's bytes.
enum class origin : std::uint8_t { model, packed, mapping, kept };
inline constexpr std::array<std::string_view, 4> origin_names = {"the model's files", "packed weights",
                                                                 "mapped packed weights", "pinned memory"};

/// A group on its way: counts down its reads that are left, keeps the first failure and answers when all are done. The
/// loader's reading thread sets its fields before it starts the reads; the thread that finishes the last read reads
/// them.
class flight {
public:
  flight(std::size_t number, weight_loader::done_callback done) : group(number), done_(std::move(done)) {}

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
  /// True for the thread that finishes the last read: it has to `answer`.
  [[nodiscard]] bool finish(std::size_t reads) noexcept { return left_.fetch_sub(reads) == reads; }
  void answer() { done_(failure_ ? &*failure_ : nullptr); }

  std::size_t group;
  std::byte* memory = nullptr; ///< where the processor puts the group together
  origin from = origin::model;
  bool again = false;      ///< it failed once, where it was packed
  bool from_model = false; ///< it failed where packed weights are read: only the model's files are left
  bool claimed = false;    ///< it fills a range of a lost mapping

  /// For devices without host-visible memory: the staging buffer, and the final destination.
  std::shared_ptr<staging_buffers::place> staging_buffer;
  std::byte* target = nullptr;
  std::size_t bytes = 0;

private:
  std::atomic<std::size_t> left_{1}; ///< beginning to read it counts as one
  std::mutex mutex_;
  std::optional<error> failure_;
  weight_loader::done_callback done_;
};

/// A read: a chunk of the model's files on its way to a slot, or a piece of packed weights on its way to its place.
struct chunk_read {
  weight_chunk chunk;
  std::byte* destination = nullptr; ///< of a piece
};

struct job {
  std::size_t group = 0;
  std::byte* memory = nullptr;
  std::shared_ptr<flight> answer;
  origin from = origin::model;
  std::vector<chunk_read> reads{};
  std::size_t next = 0;       ///< the first read to submit
  std::size_t reads_done = 0; ///< or given up
  bool begun = false;         ///< its answer counts the reads
  std::chrono::steady_clock::time_point began{};
  std::shared_ptr<const packed_file> entry{}; ///< that it is read from
};

/// The failure of packed weights that are not what was written.
[[nodiscard]] inline error other_checksum() {
  return {errc::malformed_file, "its bytes have another checksum than those that were written"};
}

/// A read in flight. An entry that belongs to no job is free.
struct read_under_way {
  job* of = nullptr;
  std::size_t read = 0; ///< its place among the job's reads
  std::size_t slot = 0;
  aligned_range range;
};

/// Finds a place for `r` among the reads: the tag of its request.
[[nodiscard]] std::size_t tag_for(std::vector<read_under_way>& reads, const read_under_way& r);

/// The reads of a group of packed weights, each of whole blocks that have a checksum, and of about `read_bytes`.
[[nodiscard]] std::vector<chunk_read> cut_packed(const packed_file& entry, const weight_group_layout& group,
                                                 std::byte* memory, std::size_t read_bytes);

/// The reads of a group of a model's files, each with room in a staging slot. Writes zeros between tensors.
[[nodiscard]] std::vector<chunk_read> cut_model(const weight_group_layout& group, std::byte* memory,
                                                std::size_t slot_bytes);

/// Sizes of the staging buffers of a device without host-visible memory, with `kept` bytes of groups that stay.
[[nodiscard]] staging_buffers::sizes staging_buffer_sizes(const llama_layout& layout, const loader_shape& shape,
                                                          std::size_t kept);

} // namespace tropilla
