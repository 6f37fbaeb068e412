// The times of steps: what belongs to one, and what to the next.
#include "src/schedule/step_times.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

TEST_CASE("a step's times are those of its jobs, and the loader's since the step before") {
  step_clock clock;
  clock.step_begins();
  clock.job_done(0.5);
  clock.job_done(0.25);
  step_times first;
  clock.add_to(first, 2'000'000'000);
  CHECK(first.compute == 0.75);
  CHECK(first.load == Approx(2));

  clock.step_begins(); // this one is given up: its loading counts for the next
  clock.job_done(4);
  clock.step_begins();
  clock.job_done(1);
  step_times behind{10, 20}; // of the next device
  clock.add_to(behind, 2'500'000'000);
  CHECK(behind.compute == 11);
  CHECK(behind.load == Approx(20.5));
}
