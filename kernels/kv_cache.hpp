/// Defines the paged KV cache: what a page holds, in which precision, and where.
#pragma once

#include "memory/rounding.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tropilla {

/// How keys and values are stored.
enum class kv_type : std::uint8_t {
  f16,  ///< IEEE half; what exceeds its range becomes its largest number
  bf16, ///< bfloat16: as long as a half, with float32's range and 8 bits of precision instead of 11
  q8_0, ///< int8 with an IEEE half as scale per 32 values of a token: 34 bytes instead of 64
};

/// "f16", "bf16", "q8_0".
[[nodiscard]] std::string_view to_string(kv_type type) noexcept;
/// The type of that name; empty for any other word.
[[nodiscard]] std::optional<kv_type> kv_type_from_name(std::string_view name) noexcept;

/// Tokens per page.
inline constexpr std::size_t kv_page_tokens = 32;
/// Pages that so many tokens of a sequence take.
[[nodiscard]] constexpr std::size_t kv_pages_for(std::size_t tokens) noexcept {
  return divide_up(tokens, kv_page_tokens);
}

/// A page of the KV cache; every device of a run has pages under the same numbers.
using page_number = std::uint32_t;
/// Consecutive pages whose memory comes and goes together: extent `e` has the pages from `e * extent_pages` on.
using extent_number = std::uint32_t;

/// Keys and values to copy before a step: `to` is about to be written behind what it shares with `from`.
struct page_copy {
  page_number from = 0;
  page_number to = 0;
};

/// Consecutive tokens of a step that belong to one sequence. A token is a row of the kernels' matrices.
struct sequence_rows {
  std::size_t first_row = 0; ///< in the step
  std::size_t rows = 0;
  std::size_t position = 0;          ///< of the first row
  std::byte* const* pages = nullptr; ///< starts of its pages, in order of position
};

/// Values of one token that share a scale in q8_0; the last block of a head may be shorter.
inline constexpr std::size_t kv_block = 32;

/// Blocks of a head of `size` values.
[[nodiscard]] constexpr std::size_t kv_blocks(std::size_t size) noexcept {
  return divide_up(size, kv_block);
}

/// The place of a layer in every page: for each kv head its keys, then for each kv head its values.
struct kv_layer {
  std::size_t offset = 0; ///< bytes from a page's start
  kv_type type = kv_type::f16;

  friend bool operator==(const kv_layer&, const kv_layer&) = default;
};

/// Bytes of the keys, or of the values, of one kv head in one page: `size` is the head's.
///
/// f16 and bf16: keys transposed `[size, 32]`, values `[32, size]`.
/// q8_0: the same as int8, and behind them the scales as halves: of keys `[kv_blocks(size), 32]`, of values
/// `[32, kv_blocks(size)]`. Value = int8 * scale, which float32 holds exactly.
[[nodiscard]] constexpr std::size_t kv_head_bytes(kv_type type, std::size_t size) noexcept {
  return type == kv_type::q8_0 ? kv_page_tokens * (size + kv_blocks(size) * sizeof(std::uint16_t))
                               : kv_page_tokens * size * sizeof(std::uint16_t);
}

/// Bytes of one layer in one page.
[[nodiscard]] constexpr std::size_t kv_layer_bytes(kv_type type, std::size_t kv_heads, std::size_t key_size,
                                                   std::size_t value_size) noexcept {
  return kv_heads * (kv_head_bytes(type, key_size) + kv_head_bytes(type, value_size));
}

} // namespace tropilla
