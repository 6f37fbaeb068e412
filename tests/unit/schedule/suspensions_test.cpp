// Suspensions of compute: which are answered, and in which order.
#include "src/schedule/suspensions.hpp"

#include "tests/unit/schedule/action_list.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using testing::placement_named;

namespace {

const auto a = placement_named("A"), b = placement_named("B"), c = placement_named("C");
constexpr bool in_step = true, between_steps = false;

} // namespace

TEST_CASE("a suspension for the same placement is due in a step, for another one between two steps") {
  suspensions s;
  CHECK(s.take_due(a, between_steps) == nullptr);
  s.add(b);
  CHECK(s.take_due(a, in_step) == nullptr);
  s.add(a);
  CHECK(s.take_due(a, in_step) == a);
  CHECK(s.suspended());
  CHECK(s.take_due(a, between_steps) == nullptr); // b waits until compute goes on
  s.resume();
  CHECK_FALSE(s.suspended());
  CHECK(s.take_due(a, in_step) == nullptr);
  CHECK(s.take_due(a, between_steps) == b);
}

TEST_CASE("the same placement comes first between two steps, too, and others in the order in which they came") {
  suspensions s;
  s.add(b);
  s.add(c);
  s.add(a);
  for (const auto& due : {a, b, c}) {
    CHECK(s.take_due(a, between_steps) == due);
    s.resume();
  }
}

TEST_CASE("all suspensions for one placement are taken together") {
  suspensions s;
  s.add(b);
  s.add(c);
  s.add(b); // the supervisor that asked first may have ended
  CHECK(s.take_due(a, between_steps) == b);
  s.resume();
  CHECK(s.take_due(b, between_steps) == c);
  s.resume();
  CHECK(s.take_due(c, between_steps) == nullptr);
}

TEST_CASE("one that comes while compute stands still is due at once, and so are those that wait") {
  suspensions s;
  s.add(a);
  s.add(b);
  CHECK(s.take_due(a, in_step) == a);
  CHECK(s.take_due(a, in_step) == nullptr);
  s.add(c);
  CHECK(s.take_due(a, in_step) == b);
  CHECK(s.take_due(a, in_step) == c);
  CHECK(s.take_due(a, in_step) == nullptr);
  CHECK(s.suspended());
  s.resume();
  s.add(c); // as if there had been none
  CHECK(s.take_due(a, in_step) == nullptr);
}
