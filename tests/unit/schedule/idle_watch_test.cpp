// When idleness is noticed: after a while in which nothing happened, and once.
#include "src/schedule/idle_watch.hpp"

#include <catch2/catch.hpp>
#include <random>

using tropilla::idle_watch;
using namespace std::chrono_literals;

TEST_CASE("idleness is noticed once, when nothing happened for the whole time") {
  const idle_watch::clock::time_point begin{1h};
  idle_watch watch(5s);
  CHECK_FALSE(watch.look(false, 0, begin));
  CHECK(watch.next_look() == begin + 5s);
  CHECK_FALSE(watch.look(false, 0, begin + 4s));
  CHECK(watch.next_look() == begin + 5s); // another look puts nothing off
  CHECK(watch.look(false, 0, begin + 5s));
  CHECK_FALSE(watch.next_look());
  CHECK_FALSE(watch.look(false, 0, begin + 1000s));
  CHECK_FALSE(watch.next_look());
}

TEST_CASE("requests and work begin the time anew") {
  const idle_watch::clock::time_point begin{1h};
  const bool is_request = GENERATE(false, true);
  idle_watch watch(5s);
  CHECK_FALSE(watch.look(false, 0, begin));
  CHECK_FALSE(watch.look(is_request, is_request ? 0 : 1, begin + 3s));
  CHECK(watch.next_look().has_value() != is_request); // a request's end is another look
  CHECK_FALSE(watch.look(false, 1, begin + 6s));
  CHECK_FALSE(watch.look(false, 1, begin + 7s));
  CHECK(watch.look(false, 1, begin + 11s));
  CHECK_FALSE(watch.look(is_request, 2, begin + 20s));
  CHECK_FALSE(watch.look(false, 2, begin + 21s));
  CHECK(watch.look(false, 2, begin + 26s));
}

TEST_CASE("whatever happens, idleness is noticed exactly once in each stretch that is long enough") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    idle_watch watch(5s);
    idle_watch::clock::time_point now{1h}, last_event = now; // the first look begins a stretch
    std::uint64_t work = 0;
    bool noticed = false;
    (void)watch.look(false, work, now);
    for (int n = 0; n < 100; ++n) {
      now += std::chrono::milliseconds(random() % 4000);
      const bool busy = random() % 6 == 0, worked = random() % 6 == 0;
      work += worked ? 1 : 0;
      if (busy || worked) {
        last_event = now;
        noticed = false;
      }
      const bool told = watch.look(busy, work, now);
      if (told) {
        CHECK_FALSE(noticed);
        CHECK(now - last_event >= 5s);
        noticed = true;
      }
      if (!busy && !noticed) {
        REQUIRE(watch.next_look());
        CHECK(*watch.next_look() > now);
      }
    }
  }
}
