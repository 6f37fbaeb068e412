/// Reads rows of keys and values for the attention kernels, whatever type they are stored as.
///
/// A matrix of rows gives views of one or two vectors of its columns (`columns<N>(first)`), and a view gives its row in
/// registers, converted: `begin_row()`, `load(n)` for each register, `next_row()`. Every type has one conversion, exact
/// in float32, so a value has the same bits on its way into registers and in scratch.
#pragma once

#include "kernels/host/bf16.hpp"
#include "kernels/kv_cache.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace tropilla::host {

/// Numbers that need nothing else: floats of scratch, halves and bfloat16 of pages. A matrix and its own view.
template <class V, class T>
struct plain_rows {
  using element = T;
  static constexpr bool in_page = !std::is_same_v<T, float>;
  const T* at = nullptr;
  std::size_t stride = 0;

  template <std::size_t N>
  [[nodiscard]] plain_rows columns(std::size_t first) const noexcept {
    return {at + first, stride};
  }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return stride * sizeof(T); }
  void begin_row() noexcept {}
  [[nodiscard]] typename V::reg load(std::size_t n) const noexcept {
    return V::load_reg(at + n * (V::width / V::regs));
  }
  void next_row() noexcept { at += stride; }
};

/// One block of keys in q8_0, `[at most kv_block, 32]`: the scales of its tokens stay in registers.
template <class V>
struct q8_key_rows {
  static constexpr bool in_page = true;
  const std::int8_t* at = nullptr;
  const std::uint16_t* scales = nullptr;

  template <std::size_t N>
  struct view {
    using element = std::int8_t;
    static constexpr bool in_page = true;
    const std::int8_t* at;
    typename V::reg scale[N * V::regs];

    [[nodiscard]] static constexpr std::size_t row_bytes() noexcept { return kv_page_tokens; }
    void begin_row() noexcept {}
    [[nodiscard]] typename V::reg load(std::size_t n) const noexcept {
      return V::mul_reg(V::load_reg(at + n * (V::width / V::regs)), scale[n]);
    }
    void next_row() noexcept { at += kv_page_tokens; }
  };

  template <std::size_t N>
  [[nodiscard]] view<N> columns(std::size_t first) const noexcept {
    view<N> out;
    out.at = at + first;
    for (std::size_t n = 0; n < N * V::regs; ++n)
      out.scale[n] = V::load_reg(scales + first + n * (V::width / V::regs));
    return out;
  }
};

/// Values in q8_0. The columns of a view lie in one block, so its rows have one scale each.
template <class V>
struct q8_value_rows {
  static constexpr bool in_page = true;
  const std::int8_t* at = nullptr;
  std::size_t stride = 0;
  const std::uint16_t* scales = nullptr;
  std::size_t blocks = 0;

  struct view {
    using element = std::int8_t;
    static constexpr bool in_page = true;
    const std::int8_t* at;
    std::size_t stride;
    const std::uint16_t* scales;
    std::size_t blocks;
    typename V::reg scale;

    [[nodiscard]] std::size_t row_bytes() const noexcept { return stride; }
    void begin_row() noexcept { scale = V::reg_of_half(scales); }
    [[nodiscard]] typename V::reg load(std::size_t n) const noexcept {
      return V::mul_reg(V::load_reg(at + n * (V::width / V::regs)), scale);
    }
    void next_row() noexcept {
      at += stride;
      scales += blocks;
    }
  };

  template <std::size_t N>
  [[nodiscard]] view columns(std::size_t first) const noexcept {
    static_assert(N * V::width <= kv_block);
    return {at + first, stride, scales + first / kv_block, blocks, V::reg_of(0)};
  }
};

/// The keys and values of a head in a page (`kv_head_bytes`). `key_rows` is how many rows of keys are read as one.
///
/// `pages_ahead` is how far ahead of reading pages are fetched, 8 KiB of heads of 64. One row behind 4096 tokens, the
/// 1B shape's 16 layers, one thread of an AMD EPYC with AVX-512: f16 with 1, 2, 3, 4 pages 6.9, 5.2, 5.1, 5.4 ms; q8_0
/// with 1, 2, 3, 4 pages 5.7, 4.3, 3.9, 3.8 ms. @pre at most a chunk's.
template <class V, kv_type Type>
struct kv_reader {
  using element = std::conditional_t<Type == kv_type::f16, std::uint16_t, bf16>;
  static constexpr std::size_t element_bytes = sizeof(element);
  static constexpr std::size_t key_rows = static_cast<std::size_t>(-1);
  static constexpr std::size_t pages_ahead = 2;

  static plain_rows<V, element> keys(const std::byte* head, std::size_t, std::size_t row) noexcept {
    return {reinterpret_cast<const element*>(head) + row * kv_page_tokens, kv_page_tokens};
  }
  static plain_rows<V, element> values(const std::byte* head, std::size_t size, std::size_t token) noexcept {
    return {reinterpret_cast<const element*>(head) + token * size, size};
  }
};

template <class V>
struct kv_reader<V, kv_type::q8_0> {
  using element = std::int8_t;
  static constexpr std::size_t element_bytes = 1;
  static constexpr std::size_t key_rows = kv_block;
  static constexpr std::size_t pages_ahead = 4;

  static const std::uint16_t* scales(const std::byte* head, std::size_t size) noexcept {
    return reinterpret_cast<const std::uint16_t*>(head + kv_page_tokens * size);
  }
  /// @pre `row` is a multiple of `kv_block`.
  static q8_key_rows<V> keys(const std::byte* head, std::size_t size, std::size_t row) noexcept {
    return {reinterpret_cast<const std::int8_t*>(head) + row * kv_page_tokens,
            scales(head, size) + row / kv_block * kv_page_tokens};
  }
  static q8_value_rows<V> values(const std::byte* head, std::size_t size, std::size_t token) noexcept {
    return {reinterpret_cast<const std::int8_t*>(head) + token * size, size,
            scales(head, size) + token * kv_blocks(size), kv_blocks(size)};
  }
};

} // namespace tropilla::host
