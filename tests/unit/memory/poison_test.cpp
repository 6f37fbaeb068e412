// Bytes that are used after they were freed.
#include "memory/poison.hpp"
#include "memory/pool.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

#ifdef TROPILLA_ASAN
#include <sanitizer/asan_interface.h>
#endif

using namespace tropilla;

namespace {

constexpr std::size_t capacity = 4096;

} // namespace

TEST_CASE("blocks are usable while they are out, and the memory is as any other when the pool is gone", "[pool]") {
  std::vector<std::byte> memory(capacity);
  {
    pool p(capacity, 64);
    p.poison(memory.data());
    for (const auto from : {pool::end::low, pool::end::high}) {
      const auto a = p.allocate(100, from), b = p.allocate(1000, from);
      REQUIRE((a && b));
      std::memset(memory.data() + a->offset, 1, 100);
      std::memset(memory.data() + b->offset, 2, 1000);
      p.free(*a);
      p.free(*b);
    }
    CHECK(p.allocate(capacity));
  }
  std::fill(memory.begin(), memory.end(), std::byte{3});
  CHECK(memory.back() == std::byte{3});
}

#ifdef TROPILLA_ASAN

TEST_CASE("the sanitizer knows free bytes", "[pool]") {
  std::vector<std::byte> memory(capacity);
  pool p(capacity, 64);
  const auto poisoned = [&](std::size_t offset) { return __asan_address_is_poisoned(memory.data() + offset) != 0; };
  p.poison(memory.data());
  CHECK(poisoned(0));
  const auto a = p.allocate(128);
  REQUIRE(a);
  CHECK(!poisoned(a->offset));
  CHECK(!poisoned(a->offset + 127));
  p.free(*a);
  CHECK(poisoned(a->offset + 127));
}

#else

TEST_CASE("a byte written after it was freed is found when it is handed out again", "[pool]") {
  std::vector<std::byte> memory(capacity);
  pool p(capacity, 64);
  p.poison(memory.data());
  const auto a = p.allocate(256);
  REQUIRE(a);
  p.free(*a);
  CHECK(memory[a->offset + 255] == detail::poison_pattern);
  memory[a->offset + 77] = std::byte{1};
  try {
    (void)p.allocate(128);
    FAIL("not found");
  } catch (const error& e) {
    CHECK(e.code() == errc::internal);
    CHECK(std::string(e.what()).find("byte " + std::to_string(a->offset + 77) + " ") != std::string::npos);
  }
  CHECK(p.statistics().in_use == 0);
  CHECK(p.allocate(capacity / 2, pool::end::high)); // other bytes are not concerned
}

#endif
