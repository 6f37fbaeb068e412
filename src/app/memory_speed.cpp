// Every core sums its share of a buffer that no cache holds.
#include "src/app/memory_speed.hpp"

#include "kernels/device.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace tropilla::app {
namespace {

/// Eight sums, so that additions don't wait for each other.
std::uint64_t sum_of(const std::uint64_t* from, std::size_t count) {
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8)
    for (std::size_t k = 0; k < 8; ++k)
      sums[k] += from[i + k];
  std::uint64_t all = 0;
  for (const auto s : sums)
    all += s;
  return all;
}

} // namespace

double measure_reading(std::size_t free_bytes) {
  constexpr std::size_t wanted = std::size_t{256} << 20;
  constexpr int passes = 4;
  using clock = std::chrono::steady_clock;
  const std::size_t threads = usable_cores();
  const std::size_t share = std::min(wanted, free_bytes / 8) / threads / sizeof(std::uint64_t);
  double best = 0;
  clock::time_point begin;
  std::atomic<std::uint64_t> used = 0; // so that no sum is left out
  int pass = 0;
  std::barrier together(static_cast<std::ptrdiff_t>(threads), [&]() noexcept {
    const auto now = clock::now();
    const double seconds = std::chrono::duration<double>(now - begin).count();
    if (pass++ > 0 && seconds > 0)
      best = std::max(best, static_cast<double>(share * threads * sizeof(std::uint64_t)) / seconds);
    begin = now;
  });
  std::vector<std::jthread> readers;
  for (std::size_t t = 0; t < threads; ++t)
    readers.emplace_back([&, t] {
      const std::vector<std::uint64_t> mine(share, t); // written by who reads it: near its core
      for (int i = 0; i <= passes; ++i) {
        together.arrive_and_wait();
        if (i < passes)
          used += sum_of(mine.data(), mine.size());
      }
    });
  readers.clear();
  return best;
}

} // namespace tropilla::app
