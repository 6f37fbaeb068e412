/// The tensor types of GGUF files: block sizes, names, and the scalar conversion to and from float32.
///
/// Source of the formats: the GGUF specification and the block structures of ggml (`ggml-common.h`),
/// checked against PyPI's `gguf` package (`gguf.quants`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tropilla {

/// Values are those stored in GGUF files.
enum class tensor_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  bf16 = 30,
};

/// How a type is stored: `block_values` consecutive values of a row take `block_bytes` bytes.
struct tensor_type_info {
  tensor_type type;
  std::string_view name; ///< as people write it: "Q4_K"
  std::size_t block_values;
  std::size_t block_bytes;
};

/// All supported types, in the order of their numbers.
[[nodiscard]] std::span<const tensor_type_info> tensor_types() noexcept;

/// @pre `type` is one of the enumerators.
[[nodiscard]] const tensor_type_info& info(tensor_type type) noexcept;

/// Looks a number from a file up; empty when tropilla does not know the type.
[[nodiscard]] std::optional<tensor_type> tensor_type_from_number(std::uint32_t number) noexcept;

/// Looks a name up, case-insensitively ("q4_k", "Q4_K"); empty when unknown.
[[nodiscard]] std::optional<tensor_type> tensor_type_from_name(std::string_view name) noexcept;

/// Bytes of a row of `values` values. @pre `values` is a multiple of `info(type).block_values`.
[[nodiscard]] std::size_t row_bytes(tensor_type type, std::size_t values) noexcept;

/// Converts whole blocks to float32: the reference every kernel is tested against.
/// @pre `out.size()` is a multiple of the type's block and `blocks` holds as many.
void dequantise(tensor_type type, std::span<const std::byte> blocks, std::span<float> out) noexcept;

/// Converts float32 to whole blocks, rounding to nearest with per-block scales.
/// K types and IQ4_NL use a direct (not searched) choice of scales: good for synthetic models and tests.
/// @pre as for dequantise.
void quantise(tensor_type type, std::span<const float> values, std::span<std::byte> blocks) noexcept;

/// Whether every scale (of F32, F16 and BF16: every value) is a finite number. A NaN or an infinity in a file would
/// spread to all logits, so the loader asks this of everything it reads. Memory-bound; any thread.
/// @pre `blocks` is a whole number of blocks.
[[nodiscard]] bool blocks_are_finite(tensor_type type, std::span<const std::byte> blocks) noexcept;

/// IEEE half to float and back (round to nearest even), and bfloat16.
[[nodiscard]] float half_to_float(std::uint16_t bits) noexcept;
[[nodiscard]] std::uint16_t float_to_half(float value) noexcept;
[[nodiscard]] float bf16_to_float(std::uint16_t bits) noexcept;
[[nodiscard]] std::uint16_t float_to_bf16(float value) noexcept;

} // namespace tropilla
