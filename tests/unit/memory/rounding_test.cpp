// Rounding to multiples.
#include "memory/rounding.hpp"

#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

using namespace tropilla;

TEST_CASE("numbers are rounded to the multiples around them") {
  for (std::size_t multiple = 1; multiple < 70; ++multiple) {
    std::size_t below = 0, pieces = 0; // found by counting
    for (std::size_t n = 0; n < 300; ++n) {
      if (n == below + multiple)
        below = n;
      if (n == pieces * multiple + 1)
        ++pieces;
      REQUIRE(round_down(n, multiple) == below);
      REQUIRE(round_up(n, multiple) == (n == below ? n : below + multiple));
      REQUIRE(divide_up(n, multiple) == pieces);
    }
  }
}

TEST_CASE("the largest numbers are divided without overflow") {
  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  CHECK(divide_up(max, 1) == max);
  CHECK(divide_up(max, max) == 1);
  CHECK(divide_up(max, 4096) == std::uint64_t{1} << 52);
  CHECK(divide_up(max - 1, max) == 1);
  CHECK(round_down(max, 4096) == max - 4095);
  CHECK(round_up(max - 4095, 4096) == max - 4095);
}

TEST_CASE("a number's type decides in which the rounding is done") {
  static_assert(std::is_same_v<decltype(round_up(7U, std::size_t{4})), unsigned>);
  static_assert(std::is_same_v<decltype(divide_up(std::uint8_t{255}, std::uint8_t{2})), std::uint8_t>);
  CHECK(divide_up(std::uint8_t{255}, 2) == 128);
  CHECK(round_up(std::uint8_t{200}, 100) == 200);
  CHECK(round_down(std::uint8_t{255}, 100) == 200);
}
