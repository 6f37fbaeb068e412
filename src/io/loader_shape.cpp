// Computes how much a loader has in flight, and the memory for it.
#include "src/io/embedding_lookup.hpp"
#include "src/io/group_load.hpp"

#include <algorithm>

namespace tropilla {

staging_buffers::sizes staging_buffer_sizes(const llama_layout& layout, const loader_shape& shape, std::size_t cached) {
  staging_buffers::sizes s{to_group_alignment(shape.staging_bytes()), 0, cached};
  for (const auto& g : layout.groups)
    s.largest = std::max(s.largest, to_group_alignment(g.bytes));
  return s;
}

loader_shape loader_shape::for_model(const llama_layout& layout, std::size_t threads) {
  loader_shape s;
  s.buffer_bytes = to_group_alignment(buffer_bytes_for(layout, best_read_bytes)) + 2 * group_alignment;
  s.pack_streams = std::clamp<std::size_t>(threads, 1, 4);
  s.buffers = 2 * s.pack_streams + 2;
  if (layout.embedding_on_disk())
    s.row_bytes = tropilla::row_bytes(layout.embedding_source().type, layout.embedding_source().columns);
  return s;
}

std::size_t loader_shape::staging_bytes() const noexcept {
  const std::size_t alignment = model_mode == io_mode::direct ? group_alignment : 1;
  return buffer_bytes * buffers + (row_bytes > 0 ? embedding_lookup::memory_bytes(row_bytes, alignment) : 0);
}

std::shared_ptr<std::byte> make_pinned_buffer(device& dev, const llama_layout& layout, const loader_shape& shape) {
  return dev.host_memory()
             ? nullptr
             : dev.make_host_buffer(staging_buffers::pinned_bytes(staging_buffer_sizes(layout, shape, 0)));
}

} // namespace tropilla
