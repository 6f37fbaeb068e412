// When a streaming ring grows and shrinks, on a clock that is moved by hand.
#include "src/schedule/ring_depth.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

/// Groups that load and compute in so many milliseconds, one after another.
struct stream_of_groups {
  ring_depth depth;
  std::size_t slots;
  ring_depth::clock::time_point now{std::chrono::seconds(1)};

  ring_depth::change pass(int load_ms, int compute_ms, bool next_ready) {
    const auto asked = now;
    now += std::chrono::milliseconds(load_ms);
    depth.arrived(asked, now);
    const auto delivered = now;
    now += std::chrono::milliseconds(compute_ms);
    depth.released(delivered, now, next_ready);
    const auto change = depth.advice(slots);
    slots += change == ring_depth::change::grow ? 1 : 0;
    slots -= change == ring_depth::change::shrink ? 1 : 0;
    return change;
  }
};

} // namespace

TEST_CASE("a ring grows while compute waits for loads that take no longer than it does, within what is spare") {
  stream_of_groups s{ring_depth(3, 250, 100), 3};
  for (int i = 0; i < 100; ++i)
    (void)s.pass(5, 10, false);
  CHECK(s.slots == 5);
  stream_of_groups none{ring_depth(3, 99, 100), 3};
  for (int i = 0; i < 100; ++i)
    (void)none.pass(5, 10, false);
  CHECK(none.slots == 3);
  stream_of_groups much{ring_depth(2, 1 << 30, 100), 2};
  for (int i = 0; i < 100; ++i)
    (void)much.pass(5, 10, false);
  CHECK(much.slots == 8);
}

TEST_CASE("a ring stays as it is where loading takes longer: every step waits for the last bytes anyway") {
  stream_of_groups s{ring_depth(3, 1 << 30, 100), 3};
  for (int i = 0; i < 1000; ++i)
    CHECK(s.pass(20, 2, false) == ring_depth::change::none);
}

TEST_CASE("a ring that nobody has waited for in a long time goes back to what was planned") {
  stream_of_groups s{ring_depth(3, 300, 100), 3};
  for (int i = 0; i < 100; ++i)
    (void)s.pass(5, 10, false);
  REQUIRE(s.slots == 6);
  for (int i = 0; i < 1000; ++i)
    CHECK(s.pass(5, 10, true) == ring_depth::change::none);
  for (int i = 0; i < 10000; ++i)
    (void)s.pass(5, 10, true);
  CHECK(s.slots == 3);
}

TEST_CASE("a ring without slots asks for none") {
  ring_depth depth(0, 1 << 30, 0);
  CHECK(depth.advice(0) == ring_depth::change::none);
}
