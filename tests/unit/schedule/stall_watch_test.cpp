// Looks at what is waited for: when there are enough of them without any progress.
#include "src/schedule/stall_watch.hpp"

#include <catch2/catch.hpp>

using tropilla::stall_watch;

TEST_CASE("a wait without progress is noticed after as many looks as there is patience for, and not before") {
  stall_watch watch(3);
  CHECK_FALSE(watch.look(1, 10)); // the first one only remembers
  CHECK_FALSE(watch.look(1, 10));
  CHECK_FALSE(watch.look(1, 10));
  CHECK(watch.look(1, 10));
}

TEST_CASE("progress, and another wait, begin anew") {
  stall_watch watch(2);
  for (std::uint64_t i = 0; i < 10; ++i)
    CHECK_FALSE(watch.look(1, i));
  for (std::uint64_t i = 0; i < 10; ++i)
    CHECK_FALSE(watch.look(i, 9));
  CHECK_FALSE(watch.look(9, 9));
  CHECK(watch.look(9, 9));
}
