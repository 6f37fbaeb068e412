// Classes of free blocks.
#include "memory/size_classes.hpp"

#include <catch2/catch.hpp>

using namespace tropilla::detail;

TEST_CASE("every block of the class for a size holds that size, and of the class below it some don't") {
  const auto number = [](size_class c) { return c.first * second_count + c.second; };
  std::size_t most = 0; // of the class that holds one granule less
  for (std::size_t granules = 1; granules < 100'000; ++granules) {
    const std::size_t wanted = number(class_for(granules));
    const std::size_t own = number(class_of(granules));
    const bool first_of_its_class = own != most;
    REQUIRE(own >= most);
    REQUIRE(own <= most + 1);
    REQUIRE(wanted == (first_of_its_class ? own : own + 1));
    most = own;
  }
}

TEST_CASE("a class is at most a thirty-second of its sizes wide") {
  for (std::size_t granules = second_count; granules < 100'000; granules += 7) {
    const size_class c = class_of(granules);
    const size_class above = class_of(granules + granules / 32 + 1);
    REQUIRE((above.first != c.first || above.second != c.second));
  }
}
