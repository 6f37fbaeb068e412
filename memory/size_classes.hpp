// Keeps free blocks in lists by size class. Internal to the pool.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tropilla::detail {

using record_id = std::uint32_t;
inline constexpr record_id none = ~record_id{0};

// Sizes are counted in granules (the alignment). Each power of two is a first level, cut into 32 ranges, so that a
// block is at most 1/32 larger than the class that serves it.
inline constexpr unsigned second_bits = 5;
inline constexpr std::size_t second_count = std::size_t{1} << second_bits;
inline constexpr std::size_t first_count = 64 - second_bits;

// So many blocks of the request's own class are tried before a request is refused: the classes above may be empty while
// one of these still fits. A constant, so that the work stays bounded.
inline constexpr int last_resort_tries = 16;

struct size_class {
  std::size_t first = 0;
  std::size_t second = 0;
};

/// The class whose range holds `granules`.
[[nodiscard]] inline size_class class_of(std::size_t granules) noexcept {
  if (granules < second_count)
    return {0, granules};
  const auto top = static_cast<unsigned>(std::bit_width(granules)) - 1;
  return {top - second_bits + 1, (granules >> (top - second_bits)) - second_count};
}

/// The first class all of whose blocks hold `granules`.
[[nodiscard]] inline size_class class_for(std::size_t granules) noexcept {
  if (granules >= second_count) {
    const auto top = static_cast<unsigned>(std::bit_width(granules)) - 1;
    granules += (std::size_t{1} << (top - second_bits)) - 1;
  }
  return class_of(granules);
}

/// A block, used or free, linked with its neighbours in the memory and, when free, in its class.
struct record {
  std::size_t begin = 0; ///< granules from the start
  std::size_t size = 0;  ///< granules
  record_id before = none, after = none;
  record_id previous_free = none, next_free = none;
  bool in_use = false;
  /// Granules of a free block that are known to be untouched. One stretch, because blocks are cut from the ends.
  std::size_t untouched_begin = 0, untouched_size = 0;

  [[nodiscard]] std::size_t touched() const noexcept { return size - untouched_size; }
};

/// The free blocks, by class. Every function takes the records that the ids mean.
class free_lists {
public:
  free_lists() noexcept {
    for (auto& row : heads_)
      row.fill(none);
  }

  [[nodiscard]] bool empty() const noexcept { return first_map_ == 0; }

  void insert(std::vector<record>& records, record_id id) noexcept {
    auto& r = records[id];
    const auto c = class_of(r.size);
    auto& head = heads_[c.first][c.second];
    r.previous_free = none;
    r.next_free = head;
    if (head != none)
      records[head].previous_free = id;
    head = id;
    second_map_[c.first] |= 1U << c.second;
    first_map_ |= std::uint64_t{1} << c.first;
  }

  void remove(std::vector<record>& records, record_id id) noexcept {
    auto& r = records[id];
    if (r.next_free != none)
      records[r.next_free].previous_free = r.previous_free;
    if (r.previous_free != none) {
      records[r.previous_free].next_free = r.next_free;
      return;
    }
    const auto c = class_of(r.size);
    heads_[c.first][c.second] = r.next_free;
    if (r.next_free != none)
      return;
    second_map_[c.first] &= ~(1U << c.second);
    if (second_map_[c.first] == 0)
      first_map_ &= ~(std::uint64_t{1} << c.first);
  }

  /// A free block of at least `size` granules, or `none`.
  [[nodiscard]] record_id find(const std::vector<record>& records, std::size_t size) const noexcept {
    const auto c = class_for(size);
    if (c.first < first_count) {
      if (const auto seconds = second_map_[c.first] & (~0U << c.second))
        return heads_[c.first][static_cast<std::size_t>(std::countr_zero(seconds))];
      if (const auto firsts = first_map_ & (~std::uint64_t{0} << (c.first + 1))) {
        const auto first = static_cast<std::size_t>(std::countr_zero(firsts));
        return heads_[first][static_cast<std::size_t>(std::countr_zero(second_map_[first]))];
      }
    }
    const auto own = class_of(size);
    auto id = heads_[own.first][own.second];
    for (int i = 0; i < last_resort_tries && id != none; ++i, id = records[id].next_free)
      if (records[id].size >= size)
        return id;
    return none;
  }

  /// Granules of the largest block. Walks the highest class, which seldom has more than a few.
  [[nodiscard]] std::size_t largest(const std::vector<record>& records) const noexcept {
    if (empty())
      return 0;
    const auto first = static_cast<std::size_t>(std::bit_width(first_map_)) - 1;
    const auto second = static_cast<std::size_t>(std::bit_width(second_map_[first])) - 1;
    std::size_t maximum = 0;
    for (auto id = heads_[first][second]; id != none; id = records[id].next_free)
      maximum = records[id].size > maximum ? records[id].size : maximum;
    return maximum;
  }

private:
  std::array<std::array<record_id, second_count>, first_count> heads_{};
  std::array<std::uint32_t, first_count> second_map_{}; ///< which classes have blocks
  std::uint64_t first_map_ = 0;
};

} // namespace tropilla::detail
