// The pool against a plain model of it: a sorted map of the blocks that are out.
#include "memory/pool.hpp"

#include <catch2/catch.hpp>

#include <map>
#include <random>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t alignment = 64;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t operations = 200'000;
#else
constexpr std::size_t operations = 1'000'000;
#endif

/// Blocks that are out, by offset; checks each step of the pool that it goes along with.
class model {
public:
  explicit model(std::size_t capacity) : pool_(capacity, alignment), capacity_(capacity) {}

  void allocate(std::size_t bytes, pool::end from) {
    const std::size_t size = pool_.rounded(bytes);
    const std::size_t largest = pool_.statistics().largest_free;
    const auto block = pool_.allocate(bytes, from);
    if (!block) {
      REQUIRE(largest < 2 * size + 2 * alignment); // a good fit may pass a block by that is hardly larger
      return;
    }
    const std::size_t offset = block->offset;
    REQUIRE(offset % alignment == 0);
    REQUIRE(offset + size <= capacity_);
    const auto next = blocks_.lower_bound(offset);
    REQUIRE((next == blocks_.end() || offset + size <= next->first));
    REQUIRE((next == blocks_.begin() || std::prev(next)->first + std::prev(next)->second <= offset));
    blocks_.emplace(offset, size);
    handles_.push_back(*block);
    in_use_ += size;
    high_water_ = std::max(high_water_, in_use_);
  }

  void free_one(std::size_t which) {
    std::swap(handles_[which], handles_.back());
    const auto it = blocks_.find(handles_.back().offset);
    in_use_ -= it->second;
    pool_.free(handles_.back());
    blocks_.erase(it);
    handles_.pop_back();
  }

  void check() const {
    const pool_statistics s = pool_.statistics();
    REQUIRE(s.in_use == in_use_);
    REQUIRE(s.high_water == high_water_);
    REQUIRE(s.blocks_in_use == blocks_.size());
    std::size_t gap = 0, at = 0;
    for (const auto& [offset, size] : blocks_) {
      gap = std::max(gap, offset - at);
      at = offset + size;
    }
    REQUIRE(s.largest_free == std::max(gap, capacity_ - at)); // neighbours were joined
  }

  [[nodiscard]] std::size_t blocks() const { return handles_.size(); }

private:
  pool pool_;
  std::size_t capacity_;
  std::map<std::size_t, std::size_t> blocks_;
  std::vector<pool::block> handles_;
  std::size_t in_use_ = 0, high_water_ = 0;
};

} // namespace

TEST_CASE("a great many random allocations and frees keep blocks apart, aligned and counted", "[pool]") {
  std::mt19937_64 random(7);
  model m(std::size_t{64} << 20);
  for (std::size_t i = 0; i < operations; ++i) {
    // Waves of filling and draining, sizes from bytes to megabytes.
    const bool fill = random() % 100 < (i / 20000 % 2 == 0 ? 60 : 40);
    if (fill || m.blocks() == 0)
      m.allocate(random() % (std::size_t{1} << (4 + random() % 17)),
                 random() % 2 == 0 ? pool::end::low : pool::end::high);
    else
      m.free_one(random() % m.blocks());
    if (i % 1000 == 0)
      m.check();
  }
  while (m.blocks() != 0)
    m.free_one(random() % m.blocks());
  m.check();
}

TEST_CASE("a pool serves its whole capacity, and all of it again after everything came back", "[pool]") {
  pool p(1000 * alignment + 17, alignment);
  CHECK(p.statistics().capacity == 1000 * alignment);
  for (int round = 0; round < 3; ++round) {
    const auto all = p.allocate(1000 * alignment);
    REQUIRE(all);
    CHECK(!p.allocate(1));
    p.free(*all);
  }
  CHECK(!p.allocate(1000 * alignment + 1));
  CHECK(p.statistics().largest_free == 1000 * alignment);
  CHECK(p.statistics().fragmentation() == 0);
}

TEST_CASE("an allocation of nothing has a place of its own", "[pool]") {
  pool p(4096, alignment);
  const auto a = p.allocate(0), b = p.allocate(0);
  REQUIRE((a && b));
  CHECK(a->offset != b->offset);
  CHECK(p.statistics().in_use == 2 * alignment);
}
