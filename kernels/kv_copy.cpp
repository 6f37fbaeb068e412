// Copies keys and values up to a token, and clears the rest.
#include "kernels/kv_copy.hpp"

#include <cstring>

namespace tropilla {
namespace {

/// Copies the first columns of a table `[rows, 32]`, whose columns are tokens.
const std::byte* copy_columns(const std::byte* from, std::byte*& to, std::size_t rows, std::size_t width,
                              std::size_t tokens) noexcept {
  for (std::size_t r = 0; r < rows; ++r, from += kv_page_tokens * width, to += kv_page_tokens * width)
    std::memcpy(to, from, tokens * width);
  return from;
}

/// Copies the first rows of a table `[32, width]`, whose rows are tokens.
const std::byte* copy_rows(const std::byte* from, std::byte*& to, std::size_t width, std::size_t tokens) noexcept {
  std::memcpy(to, from, tokens * width);
  to += kv_page_tokens * width;
  return from + kv_page_tokens * width;
}

} // namespace

void copy_kv_tokens(kv_type type, std::size_t kv_heads, std::size_t key_size, std::size_t value_size,
                    const std::byte* from, std::byte* to, std::size_t tokens) noexcept {
  const std::size_t bytes = kv_layer_bytes(type, kv_heads, key_size, value_size);
  if (tokens >= kv_page_tokens) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::memset(to, 0, bytes);
  const bool scaled = type == kv_type::q8_0;
  const std::size_t width = scaled ? 1 : sizeof(std::uint16_t);
  for (std::size_t head = 0; head < kv_heads; ++head) {
    from = copy_columns(from, to, key_size, width, tokens);
    if (scaled)
      from = copy_columns(from, to, kv_blocks(key_size), sizeof(std::uint16_t), tokens);
  }
  for (std::size_t head = 0; head < kv_heads; ++head) {
    from = copy_rows(from, to, value_size * width, tokens);
    if (scaled)
      from = copy_rows(from, to, kv_blocks(value_size) * sizeof(std::uint16_t), tokens);
  }
}

} // namespace tropilla
