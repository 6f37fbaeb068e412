// Budgets under pressure: down in steps, up again after quiet, never below what is refused.
#include "src/placement/memory_yield.hpp"

#include <catch2/catch.hpp>
#include <random>

using tropilla::memory_yield;
using tropilla::yield_pace;
using namespace std::chrono_literals;

namespace {

struct yielding {
  explicit yielding(std::size_t top) : decide(top) {}

  /// A look so much later; a runtime that refuses less than `floor`.
  std::optional<std::size_t> after(memory_yield::clock::duration time, bool pressure) {
    now += time;
    const auto asked = decide.look(pressure, now);
    if (asked && *asked < floor)
      decide.refused(now);
    else if (asked)
      decide.changed(now);
    return asked;
  }

  memory_yield decide;
  std::size_t floor = 0;
  memory_yield::clock::time_point now{1h};
};

} // namespace

TEST_CASE("a budget goes down in eighths while there is pressure, and up again after quiet, to where it was") {
  yielding y(800);
  CHECK_FALSE(y.decide.next_look());
  CHECK(y.after(0s, true) == 700);
  CHECK_FALSE(y.after(1s, true)); // the last step has yet to show
  CHECK(y.after(2s, true) == 600);
  CHECK(y.decide.next_look() == y.now + 30s);
  CHECK_FALSE(y.after(29s, false));
  CHECK(y.after(1s, false) == 700);
  CHECK_FALSE(y.after(29s, false));
  CHECK(y.after(1s, false) == 800);
  CHECK_FALSE(y.after(1h, false));
  CHECK_FALSE(y.decide.next_look());
  CHECK(y.decide.current() == 800);
}

TEST_CASE("a budget stops above nothing") {
  yielding y(100);
  for (int i = 0; i < 20; ++i)
    (void)y.after(10s, true);
  CHECK(y.decide.current() == 4); // steps of 12
}

TEST_CASE("what is refused is not asked for again before it was quiet for as long as a step up waits") {
  yielding y(800);
  y.floor = 650;
  CHECK(y.after(0s, true) == 700);
  CHECK(y.after(3s, true) == 600);
  CHECK(y.decide.current() == 700);
  for (int i = 0; i < 9; ++i)
    CHECK_FALSE(y.after(3s, true));
  y.floor = 0; // the runtime needs less now
  CHECK(y.after(3s, true) == 600);
  CHECK(y.decide.current() == 600);
}

TEST_CASE("a step up that is refused is tried again after quiet") {
  yielding y(800);
  CHECK(y.after(0s, true) == 700);
  y.floor = 10'000;
  CHECK(y.after(30s, false) == 800);
  CHECK(y.decide.current() == 700);
  CHECK(y.decide.next_look() == y.now + 30s);
  y.floor = 0;
  CHECK(y.after(30s, false) == 800);
  CHECK(y.decide.current() == 800);
}

TEST_CASE("a step up that brings pressure back doubles the quiet before the next one, until the top was kept") {
  yielding y(800);
  CHECK(y.after(0s, true) == 700);
  CHECK(y.after(30s, false) == 800);
  CHECK(y.after(5s, true) == 700);
  CHECK_FALSE(y.after(30s, false));
  CHECK(y.after(30s, false) == 800);
  CHECK_FALSE(y.after(60s, false));
  CHECK_FALSE(y.decide.next_look());
  CHECK(y.after(5s, true) == 700);
  CHECK(y.after(30s, false) == 800);
  const yield_pace pace;
  for (int i = 0; i < 20; ++i) {
    (void)y.after(5s, true);
    (void)y.after(pace.max_quiet, false);
    CHECK(y.decide.current() == 800);
  }
}

TEST_CASE("a budget that others set is the new top") {
  yielding y(800);
  CHECK(y.after(0s, true) == 700);
  y.decide.set_top(400);
  CHECK_FALSE(y.decide.next_look());
  CHECK_FALSE(y.after(1h, false));
  CHECK(y.after(0s, true) == 350);
  CHECK(y.after(30s, false) == 400);
  CHECK_FALSE(y.after(1h, false));
}

TEST_CASE("whatever the pressure, a budget stays between nothing and its top, by steps, and comes back") {
  std::mt19937 random(11);
  for (int round = 0; round < 100; ++round) {
    const std::size_t top = random() % 10'000;
    yielding y(top);
    y.floor = random() % (top + 1);
    for (int n = 0; n < 200; ++n) {
      const auto before = y.decide.current();
      const bool pressure = random() % 3 == 0;
      (void)y.after(std::chrono::milliseconds(random() % 40'000), pressure);
      const auto now = y.decide.current();
      CHECK(now <= top);
      CHECK((now == top || now >= y.floor));
      CHECK((pressure ? now <= before : now >= before));
      CHECK((now > before ? now - before : before - now) <= top / 8 + 8);
    }
    for (int n = 0; n < 20; ++n) // the next look is always enough
      if (const auto next = y.decide.next_look())
        (void)y.after(std::max(*next - y.now, memory_yield::clock::duration::zero()), false);
    CHECK(y.decide.current() == top);
    CHECK_FALSE(y.decide.next_look());
  }
}
