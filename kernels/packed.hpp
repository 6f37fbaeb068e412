/// Lays weight matrices out as the host kernels read them: rows interleaved by sixteen, block scales beside them.
///
/// One layout serves AVX2 and AVX-512, so that a packed file can be shared between machines.
#pragma once

#include "kernels/tensor_type.hpp"
#include "memory/rounding.hpp"

#include <cstddef>
#include <span>

namespace tropilla {

/// Rows that are interleaved; a matrix whose rows are not a multiple is padded with zero rows.
inline constexpr std::size_t panel_rows = 16;

/// The shape of a packed matrix `[rows, columns]` (rows: outputs; columns: inputs).
/// Panels lie one after another, `panel_bytes` each, so any range of panels is contiguous.
struct packed_layout {
  tensor_type type{};
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t panel_bytes = 0; ///< of sixteen rows, a multiple of 64

  [[nodiscard]] std::size_t panels() const noexcept { return divide_up(rows, panel_rows); }
  [[nodiscard]] std::size_t bytes() const noexcept { return panels() * panel_bytes; }
  friend bool operator==(const packed_layout&, const packed_layout&) = default;
};

/// The layout of a matrix. Throws `error` (unsupported) when `columns` is not a multiple of the type's block.
[[nodiscard]] packed_layout make_packed_layout(tensor_type type, std::size_t rows, std::size_t columns);

/// Repacks panels `[first, last)` from file order. `rows` holds the file's blocks of the rows of those
/// panels only (the last panel may be short); `packed` is the start of the whole packed matrix, 64-byte aligned.
/// Pure: any thread, and disjoint ranges at the same time.
void pack_panels(const packed_layout& layout, std::size_t first, std::size_t last, std::span<const std::byte> rows,
                 std::byte* packed) noexcept;

/// One row as float32 (an embedding look-up). Exact: the same values as `dequantise` of the file's blocks.
void unpack_row(const packed_layout& layout, const std::byte* packed, std::size_t row, std::span<float> out) noexcept;

/// A packed matrix somewhere in a device's memory. Does not own it.
struct packed_matrix {
  packed_layout layout;
  const std::byte* data = nullptr;

  friend bool operator==(const packed_matrix&, const packed_matrix&) = default;
};

} // namespace tropilla
