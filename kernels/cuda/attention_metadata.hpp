/// Attention metadata of a step, made on the processor: where rows stand, and which warp attends to which split of a
/// context.
#pragma once

#include "kernels/cuda/cuda_kernels.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace tropilla::cuda {

/// The tables of `attention_metadata`, in the processor's memory.
struct host_attention_metadata {
  std::vector<row_place> places;
  std::vector<std::byte*> page_starts;
  std::vector<attention_item> items;
  std::uint32_t slots = 0;

  /// Makes the tables of sequences, in the order of their rows. The context of a sequence with one row is divided, so
  /// that the whole GPU works on it; the rows of a prompt keep the GPU busy by themselves.
  host_attention_metadata(const attention_shape& shape, std::span<const sequence_rows> sequences);

  /// The largest number of items that a step of so many rows and pages (of one sequence after another) has.
  [[nodiscard]] static std::size_t max_items(std::size_t rows, std::size_t pages) noexcept;
  [[nodiscard]] static std::size_t max_slots(std::size_t pages) noexcept;
};

} // namespace tropilla::cuda
