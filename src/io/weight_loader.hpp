/// Loads weight groups into memory while others compute: from the model's files through read buffers and packing, or
/// straight from packed weights.
///
/// Packed weights are compared with their checksums whenever they are read, on the streams that also pack. A group that
/// is damaged there, or that can't be read, comes from the model's files instead, and the client that asked for it does
/// not notice.
#pragma once

#include "kernels/device.hpp"
#include "src/io/file_reader.hpp"
#include "src/io/weight_chunks.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/error.hpp"
#include "tropilla/types.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

class packed_mapping;

/// How much the loader has in flight, and how it reads.
struct loader_shape {
  std::size_t buffer_bytes = 0; ///< of a read buffer: a chunk, with room for the aligned range of a direct read
  std::size_t buffers = 0;      ///< read buffers
  std::size_t pack_streams = 0;
  std::size_t row_bytes = 0;               ///< of the embedding in the file; 0: rows are not looked up on disk
  io_mode model_mode = io_mode::buffered;  ///< for the model's own files
  io_mode packed_mode = io_mode::buffered; ///< for packed weights

  /// Reads of 1 MiB or more; two buffers being packed per stream and two being read.
  [[nodiscard]] static loader_shape for_model(const llama_layout& layout, std::size_t threads);
  [[nodiscard]] std::size_t staging_bytes() const noexcept;
  /// Staging bytes in the device's memory: none where the processor can't read there; the loader then has a
  /// `pinned_buffer`.
  [[nodiscard]] std::size_t staging_bytes_on(const device& dev) const noexcept {
    return dev.host_memory() ? staging_bytes() : 0;
  }
};

/// Meters how long transfers were in flight and how much they brought. Written by a loader; any thread may read it.
struct transfer_meter {
  std::atomic<std::int64_t> busy_ns{0}; ///< time in which at least one read, or copy of a cached group, was in flight
  std::atomic<std::uint64_t> bytes{0};
};

/// Makes the readers: tests pass ones that fail.
using reader_factory = std::function<std::unique_ptr<file_reader>(std::span<const std::filesystem::path> files,
                                                                  const reader_options& options)>;

struct weight_loader_setup {
  const llama_layout* layout = nullptr; ///< these three outlive the loader
  device* dev = nullptr;
  tracer* trace = nullptr; ///< may be null
  std::vector<std::filesystem::path> files{};
  loader_shape shape{};
  /// `shape.staging_bytes_on(dev)`, at a multiple of `group_alignment`: the read buffers, then room for rows. Outlives
  /// it.
  std::byte* read_buffers = nullptr;
  std::shared_ptr<std::byte> pinned_buffer{}; ///< of `make_pinned_buffer`, for the same device, layout and shape
  /// For devices without host-visible memory: bytes of pinned memory in which streamed groups stay once they were read,
  /// so that they are only copied from then on.
  std::size_t pinned_bytes = 0;
  std::function<bool(std::size_t group)> is_streamed{}; ///< so that the group comes again; empty: none is
  std::filesystem::path packed_folder{};                ///< ""; or where packed weights are found, else written
  std::shared_ptr<packed_mapping> mapping{};            ///< of packed weights; null: `verify_mapped` is not called
  std::shared_ptr<transfer_meter> meter{};              ///< may be null
  reader_factory make_reader = make_file_reader;
  /// Whether `notice` was told that packed weights are damaged; of all loaders that follow one another. May be null.
  std::shared_ptr<std::atomic<bool>> damage_told{};
  std::function<void(std::string_view)> notice{}; ///< as `runtime_config::on_notice`
  logger log{};                                   ///< of what is read
  logger cache_log{};                             ///< of packed weights
};

/// Makes the pinned memory of the read buffers and of the staging buffers for a device without host-visible memory;
/// null for others. Apart from the loader, so that the caller learns before it makes one that there is no memory.
/// Throws `error` as `device::make_host_buffer`.
[[nodiscard]] std::shared_ptr<std::byte> make_pinned_buffer(device& dev, const llama_layout& layout,
                                                            const loader_shape& shape);

/// Loads groups asynchronously. Any thread may call it. Groups are read in the order of the calls, by one thread that
/// keeps reads in flight from one group to the next. Destruction ends with what was started; groups that were not are
/// answered with a failure.
class weight_loader {
public:
  /// Called once, on one of the loader's threads: with null when it is done, else why not (io_error, malformed_file,
  /// over_budget, device_failed, cancelled).
  using done_callback = std::function<void(const error* failure)>;

  explicit weight_loader(weight_loader_setup setup);
  ~weight_loader();

  /// Loads a group into `memory`, its layout's bytes up to the next multiple of `group_alignment`, aligned to that.
  /// Nothing writes there after `done`.
  void load(std::size_t group, std::byte* memory, done_callback done);
  /// Verifies the checksums of a group of `mapping`, where it lies, in turn with what is read. If a group is not what
  /// was written, the mapping is lost, and the group is loaded like any other into memory at the same address, as are
  /// all groups of a lost mapping.
  void verify_mapped(std::size_t group, std::byte* memory, done_callback done);
  /// Reads rows of the embedding from the model's file: `rows` is `[ids.size(), width]`. @pre `shape.row_bytes` > 0 and
  /// the ids are in range.
  void look_up(std::vector<token_id> ids, float* rows, done_callback done);

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
