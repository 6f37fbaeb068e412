// Teams of threads: jobs, barriers, sharing work.
#include "kernels/host/team.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

using namespace tropilla::host;

TEST_CASE("every worker of a team runs a job once, worker 0 on the caller's thread") {
  for (const std::size_t workers : {1, 2, 3, 5, 8}) {
    team t(workers, "test");
    REQUIRE(t.workers() == workers);
    for (int repeat = 0; repeat < 3; ++repeat) {
      std::vector<int> runs(workers); // checked by this thread: Catch2 checks are not for several at once
      std::vector<std::size_t> counts(workers);
      std::vector<std::thread::id> threads(workers);
      t.run([&](worker_context& worker) {
        counts[worker.worker()] = worker.workers();
        ++runs[worker.worker()];
        threads[worker.worker()] = std::this_thread::get_id();
      });
      CHECK(runs == std::vector<int>(workers, 1));
      CHECK(counts == std::vector<std::size_t>(workers, workers));
      CHECK(threads[0] == std::this_thread::get_id());
      CHECK(std::set(threads.begin(), threads.end()).size() == workers);
    }
  }
}

TEST_CASE("what workers write before a barrier is seen by all after it") {
  for (const std::size_t workers : {1, 2, 3, 4, 5, 7}) {
    team t(workers, "test");
    constexpr std::size_t rounds = 2000;
    std::vector<std::size_t> values(workers); // plain memory: only the barrier orders it
    std::vector<std::size_t> wrong(workers);
    t.run([&](worker_context& worker) {
      for (std::size_t i = 1; i <= rounds; ++i) {
        values[worker.worker()] = i * (worker.worker() + 1);
        worker.barrier();
        const auto sum = std::accumulate(values.begin(), values.end(), std::size_t{0});
        wrong[worker.worker()] += sum != i * workers * (workers + 1) / 2;
        worker.barrier();
      }
    });
    CHECK(wrong == std::vector<std::size_t>(workers, 0));
  }
}

TEST_CASE("shared work is done once each, in consecutive rounds and in consecutive jobs") {
  for (const std::size_t workers : {1, 2, 3, 5}) {
    team t(workers, "test");
    constexpr std::size_t chunks = 37, rounds = 60;
    for (int job = 0; job < 5; ++job) {
      std::vector<std::vector<int>> done(rounds, std::vector<int>(chunks));
      t.run([&](worker_context& worker) {
        for (std::size_t round = 0; round < rounds; ++round) {
          worker.share(chunks, [&](std::size_t i) { ++done[round][i]; });
          if (round % 2 == 1) // two shares may follow each other without a barrier
            worker.barrier();
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
    t.run([&](worker_context& worker) { parts[worker.worker()] = worker.worker() + 1; });
    sum += parts[0] + parts[1] + parts[2];
  }
  CHECK(sum == 20 * 6);
}

TEST_CASE("teams can be made and destroyed without a job") {
  for (int i = 0; i < 20; ++i)
    team t(1 + static_cast<std::size_t>(i % 4), "test");
  SUCCEED("none of them waits for ever");
}
