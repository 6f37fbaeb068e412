/// Reads weight groups through staging slots and packs them on streams of their own, while others compute.
#pragma once

#include "kernels/device.hpp"
#include "src/io/file_reader.hpp"
#include "src/io/weight_chunks.hpp"
#include "src/trace/trace.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

/// How much the loader has in flight.
struct loader_shape {
  std::size_t slot_bytes = 0;
  std::size_t slots = 0;
  std::size_t pack_streams = 0;

  /// Reads of 1 MiB or more; two slots being packed per stream and two being read.
  [[nodiscard]] static loader_shape for_model(const llama_layout& layout, std::size_t threads);
  [[nodiscard]] std::size_t staging_bytes() const noexcept { return slot_bytes * slots; }
};

/// One thread calls it (the loader actor's). Destruction finishes what was started.
class weight_loader {
public:
  /// Called once per group, on a packing stream's thread or inside `load`: an empty string, or why the group failed.
  using done_callback = std::function<void(const std::string& failure)>;

  /// `staging` has `shape.staging_bytes()` bytes, which stay valid as long as the loader. `trace` may be null.
  /// Throws `error` (io_error) when a file can't be opened.
  weight_loader(const llama_layout& layout, std::span<const std::filesystem::path> files, device& dev,
                const loader_shape& shape, std::byte* staging, tracer* trace);
  ~weight_loader();

  /// Reads a group into `memory` (its layout's bytes). Returns when everything is read; packing may go on, and `done`
  /// is called when it ended. Nothing writes to `memory` after `done`.
  void load(std::size_t group, std::byte* memory, done_callback done);

  [[nodiscard]] std::string_view io_name() const noexcept;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
