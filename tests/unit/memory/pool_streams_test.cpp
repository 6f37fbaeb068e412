// Blocks that streams free, against a plain model of who may have which byte when. The streams are counters.
#include "memory/pool.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <map>
#include <random>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t granule = 256;
constexpr std::size_t capacity = 512 * granule;

/// A stream that runs behind the program: `given` jobs were enqueued, `done` of them have run.
struct fake_stream {
  pool::stream id;
  std::uint64_t given = 0, done = 0;
};

} // namespace

TEST_CASE("a block freed on a stream serves that stream at once and others when it got there", "[pool]") {
  pool p(4 * granule, granule);
  const auto a = p.add_stream(), b = p.add_stream();
  const auto whole = p.allocate_on(a, 4 * granule);
  REQUIRE(whole);
  p.free_on(a, *whole, 7);
  CHECK(p.statistics().in_use == 0);
  CHECK(p.statistics().pending == 4 * granule);
  CHECK(p.next_point(a) == 7);
  CHECK(!p.next_point(b));
  CHECK(!p.allocate_on(b, granule));
  CHECK(!p.allocate(granule));
  const auto again = p.allocate_on(a, granule);
  REQUIRE(again);
  p.reached(a, 6);
  CHECK(!p.allocate(granule));
  p.reached(a, 7);
  CHECK(p.statistics().pending == 0);
  CHECK(p.allocate_on(b, 3 * granule));
  p.free(*again); // nothing but the program used it
  CHECK(p.allocate(granule));
}

TEST_CASE("no stream gets a byte that another may still use, and in the end all of them are one block", "[pool]") {
  constexpr std::size_t streams = 3;
  std::mt19937 random(5);
  pool p(capacity, granule);
  std::array<fake_stream, streams> all{};
  for (auto& s : all)
    s.id = p.add_stream();

  struct stain { ///< who freed a granule last, and when
    std::size_t stream = streams;
    std::uint64_t point = 0;
  };
  std::vector<stain> bytes(capacity / granule);
  std::vector<bool> used(capacity / granule);
  std::vector<std::pair<pool::block, std::size_t>> blocks; // and their granules
  for (int i = 0; i < 60000; ++i) {
    const std::size_t who = random() % streams;
    auto& s = all[who];
    const auto act = random() % 10;
    if (act < 5) {
      const std::size_t n = 1 + random() % 24;
      const auto b = p.allocate_on(s.id, n * granule, random() % 2 == 0 ? pool::end::low : pool::end::high);
      if (!b)
        continue;
      for (std::size_t g = b->offset / granule; g < b->offset / granule + n; ++g) {
        REQUIRE(!used[g]);
        const auto& last = bytes[g];
        REQUIRE((last.stream == streams || last.stream == who || all[last.stream].done >= last.point));
        used[g] = true;
      }
      blocks.emplace_back(*b, n);
    } else if (act < 9 && !blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const auto [b, n] = blocks.back();
      blocks.pop_back();
      s.given += random() % 3;
      for (std::size_t g = b.offset / granule; g < b.offset / granule + n; ++g) {
        used[g] = false;
        bytes[g] = {who, s.given};
      }
      p.free_on(s.id, b, s.given);
    } else {
      s.done += random() % (s.given - s.done + 1);
      p.reached(s.id, s.done);
      REQUIRE(p.next_point(s.id).value_or(s.done + 1) > s.done);
    }
  }
  for (const auto& [b, n] : blocks)
    p.free_on(all[0].id, b, all[0].given);
  for (auto& s : all)
    p.reached(s.id, s.given);
  CHECK(p.statistics().in_use == 0);
  CHECK(p.statistics().pending == 0);
  CHECK(p.statistics().largest_free == capacity);
}

TEST_CASE("allocations per second follow the caller's clock", "[pool]") {
  pool p(64 * granule, granule);
  const auto before = p.statistics();
  for (int i = 0; i < 10; ++i)
    p.free(*p.allocate(1));
  CHECK(allocations_per_second(before, p.statistics(), 0.5) == 20);
  CHECK(allocations_per_second(before, p.statistics(), 0) == 0);
}
