/// Random matrices and activations for the tests of packing and of matrix products.
#pragma once

#include "device_fixture.hpp"
#include "kernels/block_formats.hpp"
#include "kernels/host/elementwise_kernels.hpp"
#include "kernels/packed.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace tropilla::host::testing {

/// Offsets of the half-precision scales in a block.
inline std::vector<std::size_t> scale_offsets(tensor_type type) {
  using enum tensor_type;
  switch (type) {
  case q4_0:
  case q5_0:
  case q8_0:
  case iq4_nl:
    return {0};
  case q4_1:
  case q5_1:
  case q4_k:
  case q5_k:
    return {0, 2};
  case q2_k:
    return {80, 82};
  case q3_k:
    return {108};
  case q6_k:
    return {208};
  default:
    return {};
  }
}

/// A matrix as a file has it: every bit of the values and of the small scales is random, the half-precision scales
/// are numbers of a sensible size, either sign.
inline std::vector<std::byte> random_blocks(tensor_type type, std::size_t rows, std::size_t columns,
                                            std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<std::byte> out(rows * row_bytes(type, columns));
  std::normal_distribution<float> normal(0, 0.02F);
  const std::size_t block = info(type).block_bytes;
  if (info(type).block_values == 1) {
    for (std::size_t i = 0; i < out.size(); i += block) {
      const float value = normal(engine);
      std::uint16_t half = float_to_half(value);
      if (type == tensor_type::bf16)
        half = float_to_bf16(value);
      std::memcpy(out.data() + i, type == tensor_type::f32 ? static_cast<const void*>(&value) : &half, block);
    }
    return out;
  }
  std::generate(out.begin(), out.end(), [&] { return static_cast<std::byte>(engine()); });
  for (std::size_t i = 0; i < out.size(); i += block)
    for (const std::size_t offset : scale_offsets(type)) {
      const std::uint16_t half = float_to_half(normal(engine));
      std::memcpy(out.data() + i + offset, &half, sizeof(half));
    }
  return out;
}

/// Columns of matrices to multiply: a block, some, many, and where a type has no blocks an odd number.
inline std::vector<std::size_t> product_widths(const tensor_type_info& type) {
  if (type.block_values == 1)
    return {7, 64, 576};
  if (type.block_values == 32)
    return {32, 64, 576, 1056};
  return {256, 1280};
}

/// A packed matrix and what it stands for.
struct random_matrix {
  packed_layout layout;
  std::vector<std::byte> file;
  aligned_bytes packed;
  std::vector<float> values; ///< [rows, columns], from the file's blocks

  random_matrix(tensor_type type, std::size_t rows, std::size_t columns, std::uint32_t seed)
      : layout(make_packed_layout(type, rows, columns)), file(random_blocks(type, rows, columns, seed)),
        packed(layout.bytes()), values(rows * columns) {
    pack_panels(layout, 0, layout.panels(), file, packed.data());
    dequantise(type, file, values);
  }

  [[nodiscard]] packed_matrix view() const { return {layout, packed.data()}; }
};

/// Rows of random input, stored as an activation of both kinds.
struct random_input {
  std::vector<float> values; ///< [rows, width]
  aligned_bytes storage;
  activation stored;

  random_input(std::size_t rows, std::size_t width, std::uint32_t seed)
      : values(random_floats(rows * width, seed)),
        storage(activation_buffer_bytes(activation_kind::both, rows, width)), stored{storage.data(),
                                                                                     activation_kind::both, rows,
                                                                                     width} {
    const activation_view view = view_of(stored, false);
    for (std::size_t r = 0; r < rows; ++r)
      scalar::rows().store_plain(values.data() + r * width, width, 0, divide_up(width, row_piece), row_of(view, r));
  }

  /// What the quantised rows stand for.
  [[nodiscard]] double quantised(std::size_t row, std::size_t k) const {
    const quantised_rows q = view_of(stored, false).quantised;
    return static_cast<double>(q.q[row * q.padded + k]) *
           static_cast<double>(q.scale[row * (q.padded / activation_block) + k / activation_block]);
  }
};

} // namespace tropilla::host::testing
