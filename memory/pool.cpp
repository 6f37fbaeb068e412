// Two-level segregated fit over records that live beside the memory.
#include "memory/pool.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <unordered_map>
#include <vector>

namespace tropilla {
namespace {

using record_id = std::uint32_t;
constexpr record_id none = ~record_id{0};

// Sizes are counted in granules (the alignment). A first level per power of two, cut into 32 ranges, so that a block
// is at most 1/32 larger than the class that serves it.
constexpr unsigned second_bits = 5;
constexpr std::size_t second_count = std::size_t{1} << second_bits;
constexpr std::size_t first_count = 64 - second_bits;

// Blocks of the request's own class are tried, this many, before a request is refused: the classes above may be empty
// while one of these still fits. A constant, so that the work stays bounded.
constexpr int last_resort_tries = 16;

struct size_class {
  std::size_t first = 0;
  std::size_t second = 0;
};

/// The class whose range holds `granules`.
size_class class_of(std::size_t granules) noexcept {
  if (granules < second_count)
    return {0, granules};
  const auto top = static_cast<unsigned>(std::bit_width(granules)) - 1;
  return {top - second_bits + 1, (granules >> (top - second_bits)) - second_count};
}

/// The first class all of whose blocks hold `granules`.
size_class class_for(std::size_t granules) noexcept {
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
  bool is_free = false;
};

} // namespace

double pool_statistics::fragmentation() const noexcept {
  const std::size_t free = capacity - in_use;
  return free == 0 ? 0 : 1 - static_cast<double>(largest_free) / static_cast<double>(free);
}

struct pool::impl {
  std::size_t granule;
  std::vector<record> records;
  std::vector<record_id> spare;                    ///< records that are not in use
  std::unordered_map<std::size_t, record_id> used; ///< by first granule
  std::array<std::array<record_id, second_count>, first_count> heads{};
  std::array<std::uint32_t, first_count> second_map{}; ///< which classes have blocks
  std::uint64_t first_map = 0;
  pool_statistics stats;

  impl(std::size_t capacity, std::size_t alignment) : granule(alignment) {
    for (auto& row : heads)
      row.fill(none);
    stats.capacity = capacity / granule * granule;
    if (stats.capacity > 0)
      insert(make_record({0, stats.capacity / granule, none, none, none, none, false}));
  }

  record_id make_record(const record& r) {
    if (spare.empty()) {
      records.push_back(r);
      return static_cast<record_id>(records.size() - 1);
    }
    const record_id id = spare.back();
    spare.pop_back();
    records[id] = r;
    return id;
  }

  void insert(record_id id) {
    auto& r = records[id];
    const auto c = class_of(r.size);
    auto& head = heads[c.first][c.second];
    r.is_free = true;
    r.previous_free = none;
    r.next_free = head;
    if (head != none)
      records[head].previous_free = id;
    head = id;
    second_map[c.first] |= 1U << c.second;
    first_map |= std::uint64_t{1} << c.first;
  }

  void remove(record_id id) {
    auto& r = records[id];
    const auto c = class_of(r.size);
    if (r.next_free != none)
      records[r.next_free].previous_free = r.previous_free;
    if (r.previous_free != none) {
      records[r.previous_free].next_free = r.next_free;
    } else {
      heads[c.first][c.second] = r.next_free;
      if (r.next_free == none) {
        second_map[c.first] &= ~(1U << c.second);
        if (second_map[c.first] == 0)
          first_map &= ~(std::uint64_t{1} << c.first);
      }
    }
    r.is_free = false;
  }

  /// A free block of at least `size` granules, or `none`.
  [[nodiscard]] record_id find(std::size_t size) const {
    const auto c = class_for(size);
    if (c.first < first_count) {
      if (const auto seconds = second_map[c.first] & (~0U << c.second))
        return heads[c.first][static_cast<std::size_t>(std::countr_zero(seconds))];
      if (const auto firsts = c.first + 1 < 64 ? first_map & (~std::uint64_t{0} << (c.first + 1)) : 0) {
        const auto first = static_cast<std::size_t>(std::countr_zero(firsts));
        return heads[first][static_cast<std::size_t>(std::countr_zero(second_map[first]))];
      }
    }
    const auto own = class_of(size);
    auto id = heads[own.first][own.second];
    for (int i = 0; i < last_resort_tries && id != none; ++i, id = records[id].next_free)
      if (records[id].size >= size)
        return id;
    return none;
  }

  /// Leaves `size` granules in the block and makes the rest a free block behind it.
  void split(record_id id, std::size_t size) {
    const std::size_t rest = records[id].size - size;
    if (rest == 0)
      return;
    const record_id after = records[id].after;
    const record_id tail = make_record({records[id].begin + size, rest, id, after, none, none, false});
    records[id].size = size;
    records[id].after = tail;
    if (after != none)
      records[after].before = tail;
    insert(tail);
  }

  /// Joins `right` to `left`, its neighbour before. Both are in no class.
  void merge(record_id left, record_id right) {
    records[left].size += records[right].size;
    records[left].after = records[right].after;
    if (records[right].after != none)
      records[records[right].after].before = left;
    spare.push_back(right);
  }
};

pool::pool(std::size_t capacity, std::size_t alignment) : impl_(std::make_unique<impl>(capacity, alignment)) {
  assert(std::has_single_bit(alignment));
}
pool::~pool() = default;
pool::pool(pool&&) noexcept = default;
pool& pool::operator=(pool&&) noexcept = default;

std::optional<std::size_t> pool::allocate(std::size_t bytes) {
  auto& p = *impl_;
  if (bytes > p.stats.capacity)
    return std::nullopt;
  const std::size_t size = rounded(bytes) / p.granule;
  const record_id id = p.find(size);
  if (id == none)
    return std::nullopt;
  p.remove(id);
  p.split(id, size);
  p.used.emplace(p.records[id].begin, id);
  p.stats.in_use += size * p.granule;
  p.stats.high_water = std::max(p.stats.high_water, p.stats.in_use);
  ++p.stats.blocks_in_use;
  ++p.stats.allocations;
  return p.records[id].begin * p.granule;
}

void pool::free(std::size_t offset) noexcept {
  auto& p = *impl_;
  const auto it = p.used.find(offset / p.granule);
  assert(it != p.used.end());
  if (it == p.used.end())
    return;
  record_id id = it->second;
  p.used.erase(it);
  p.stats.in_use -= p.records[id].size * p.granule;
  --p.stats.blocks_in_use;
  ++p.stats.frees;
  if (const auto after = p.records[id].after; after != none && p.records[after].is_free) {
    p.remove(after);
    p.merge(id, after);
  }
  if (const auto before = p.records[id].before; before != none && p.records[before].is_free) {
    p.remove(before);
    p.merge(before, id);
    id = before;
  }
  p.insert(id);
}

std::size_t pool::rounded(std::size_t bytes) const noexcept {
  const std::size_t g = impl_->granule;
  return (std::max<std::size_t>(bytes, 1) + g - 1) / g * g;
}

pool_statistics pool::statistics() const noexcept {
  const auto& p = *impl_;
  auto s = p.stats;
  if (p.first_map != 0) {
    const auto first = static_cast<std::size_t>(std::bit_width(p.first_map)) - 1;
    const auto second = static_cast<std::size_t>(std::bit_width(p.second_map[first])) - 1;
    for (auto id = p.heads[first][second]; id != none; id = p.records[id].next_free)
      s.largest_free = std::max(s.largest_free, p.records[id].size * p.granule);
  }
  return s;
}

} // namespace tropilla
