/// Cuts a group of weights into reads that fit a read buffer, and packs what was read.
#pragma once

#include "src/model/llama_layout.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

/// A run of a tensor's panels (of a vector: all of it), contiguous in the file.
struct weight_chunk {
  std::size_t tensor = 0; ///< index in the group
  std::size_t first = 0;  ///< panels [first, last)
  std::size_t last = 0;
  std::size_t file = 0;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
};

/// The smallest read buffer that every chunk of the model fits, and at least `wanted`.
[[nodiscard]] std::size_t buffer_bytes_for(const llama_layout& layout, std::size_t wanted);

/// The reads of one group, in the file's order. @pre `buffer_bytes >= buffer_bytes_for(layout, 0)`.
[[nodiscard]] std::vector<weight_chunk> cut_group(const weight_group_layout& group, std::size_t buffer_bytes);

/// Packs (or, for a vector, widens to float32) what was read into the group's memory. Any thread; chunks are disjoint.
/// Returns an empty string, or a sentence about what is wrong with the bytes (a scale that is not finite).
[[nodiscard]] std::string pack_chunk(const weight_group_layout& group, const weight_chunk& chunk,
                                     std::span<const std::byte> bytes, std::byte* group_memory);

} // namespace tropilla
