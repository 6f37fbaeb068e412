// Splits as people write them, and what is none.
#include "src/placement/device_split.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

void check(const char* text, std::size_t named, std::size_t pipeline, std::size_t tensor) {
  INFO(text << " between " << named);
  const auto split = parse_split(text, named);
  CHECK(split.pipeline == pipeline);
  CHECK(split.tensor == tensor);
  CHECK(split.devices() == pipeline * tensor);
}

} // namespace

TEST_CASE("a split says how many stages there are, and how many devices each has") {
  check("", 0, 1, 1);
  check("", 3, 3, 1);
  check("pipeline=2", 0, 2, 1);
  check("pipeline=2", 2, 2, 1);
  check("tensor=4", 0, 1, 4);
  check("tensor=2", 6, 3, 2);
  check("pipeline=2,tensor=3", 0, 2, 3);
  check("tensor=3,pipeline=2", 6, 2, 3);
  check("tensor=1", 0, 1, 1);
}

TEST_CASE("a split that is none is refused with what one is, and one of other devices with the numbers") {
  for (const char* const text : {"2", "tensor", "tensor=", "tensor=0", "tensor=-1", "tensor=2x", "tensor= 2",
                                 "tensor=65", ",", "tensor=2,", ",tensor=2", "tensor=2,tensor=2",
                                 "pipeline=1,pipeline=1", "layers=2", "Tensor=2", "tensor=99999999999999999999"})
    CHECK_THROWS_WITH(parse_split(text, 0), Catch::Contains("pipeline=N, tensor=N or both") && Catch::Contains(text));
  CHECK_THROWS_WITH(parse_split("tensor=2", 3), Catch::Contains("between 2 devices, and 3 are named"));
  CHECK_THROWS_WITH(parse_split("pipeline=2,tensor=2", 2), Catch::Contains("between 4 devices, and 2 are named"));
  CHECK_THROWS_WITH(parse_split("pipeline=64,tensor=2", 0), Catch::Contains("up to 64 devices, not 128"));
}
