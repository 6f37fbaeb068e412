// Teams of threads: jobs, barriers, sharing work.
#include "kernels/host/team.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

using namespace tropilla::host;

TEST_CASE("every lane of a team runs a job once, lane 0 on the caller's thread") {
  for (const std::size_t lanes : {1, 2, 3, 5, 8}) {
    team t(lanes, "test");
    REQUIRE(t.lanes() == lanes);
    for (int repeat = 0; repeat < 3; ++repeat) {
      std::vector<int> runs(lanes); // checked by this thread: Catch2 checks are not for several at once
      std::vector<std::size_t> counts(lanes);
      std::vector<std::thread::id> threads(lanes);
      t.run([&](lane_context& lane) {
        counts[lane.lane()] = lane.lanes();
        ++runs[lane.lane()];
        threads[lane.lane()] = std::this_thread::get_id();
      });
      CHECK(runs == std::vector<int>(lanes, 1));
      CHECK(counts == std::vector<std::size_t>(lanes, lanes));
      CHECK(threads[0] == std::this_thread::get_id());
      CHECK(std::set(threads.begin(), threads.end()).size() == lanes);
    }
  }
}

TEST_CASE("what lanes write before a barrier is seen by all after it") {
  for (const std::size_t lanes : {1, 2, 3, 4, 5, 7}) {
    team t(lanes, "test");
    constexpr std::size_t rounds = 2000;
    std::vector<std::size_t> values(lanes); // plain memory: only the barrier orders it
    std::vector<std::size_t> wrong(lanes);
    t.run([&](lane_context& lane) {
      for (std::size_t i = 1; i <= rounds; ++i) {
        values[lane.lane()] = i * (lane.lane() + 1);
        lane.barrier();
        const auto sum = std::accumulate(values.begin(), values.end(), std::size_t{0});
        wrong[lane.lane()] += sum != i * lanes * (lanes + 1) / 2;
        lane.barrier();
      }
    });
    CHECK(wrong == std::vector<std::size_t>(lanes, 0));
  }
}

TEST_CASE("shared work is done once each, in consecutive rounds and in consecutive jobs") {
  for (const std::size_t lanes : {1, 2, 3, 5}) {
    team t(lanes, "test");
    constexpr std::size_t chunks = 37, rounds = 60;
    for (int job = 0; job < 5; ++job) {
      std::vector<std::vector<int>> done(rounds, std::vector<int>(chunks));
      t.run([&](lane_context& lane) {
        for (std::size_t round = 0; round < rounds; ++round) {
          lane.share(chunks, [&](std::size_t i) { ++done[round][i]; });
          if (round % 2 == 1) // two shares may follow each other without a barrier
            lane.barrier();
        }
      });
      CHECK(std::all_of(done.begin(), done.end(), [](const auto& d) { return d == std::vector<int>(chunks, 1); }));
    }
  }
}

TEST_CASE("a team takes jobs after its threads have parked") {
  team t(3, "test");
  std::size_t sum = 0;
  for (int i = 0; i < 20; ++i) {
    // More other work than a thread spins for, without sleeping: the system decides when threads run.
    for (int k = 0; k < 200; ++k)
      std::this_thread::yield();
    std::vector<std::size_t> parts(3);
    t.run([&](lane_context& lane) { parts[lane.lane()] = lane.lane() + 1; });
    sum += parts[0] + parts[1] + parts[2];
  }
  CHECK(sum == 20 * 6);
}

TEST_CASE("teams can be made and destroyed without a job") {
  for (int i = 0; i < 20; ++i)
    team t(1 + static_cast<std::size_t>(i % 4), "test");
  SUCCEED("none of them waits for ever");
}
