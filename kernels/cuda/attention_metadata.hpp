/// A step's rows as kernels want them, made on the processor: where rows stand, and who sees which split of a context.
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

  /// Of sequences in the order of their rows. A sequence that has one row has its context divided, so that all of a GPU
  /// sees it; rows of a prompt are enough for that by themselves.
  host_attention_metadata(const attention_shape& shape, std::span<const sequence_rows> sequences);

  /// What steps of so many rows and pages (of one sequence after another) have at most.
  [[nodiscard]] static std::size_t max_items(std::size_t rows, std::size_t pages) noexcept;
  [[nodiscard]] static std::size_t max_slots(std::size_t pages) noexcept;
};

} // namespace tropilla::cuda
