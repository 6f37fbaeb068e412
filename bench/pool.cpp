// Measures the cost of a block: a pair of allocate and free in ns, and what real traffic does to the pool.
//
//   bench_pool                 pairs for the pool, a lease of the arbiter, malloc, mimalloc and cudaMallocAsync
//   bench_pool --replay        10^6 operations of real traffic, from bench/data/pool_mix.json: fragmentation
//   also --json, --repetitions N, --mix FILE, --operations N
//
// "at once" frees what was just allocated; "among 1000" replaces a random one of a thousand blocks of mixed sizes, so
// that splitting, joining and caches take part. Medians of the repetitions, beside the smallest and the largest.
// mimalloc and cudaMallocAsync are compared with where they are there; for the latter, the time that the host waits.
#include "bench/pool_cuda.hpp"
#include "bench/pool_replay.hpp"
#include "memory/arbiter.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#ifdef TROPILLA_MIMALLOC
#include <mimalloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

using namespace tropilla;
using namespace tropilla::bench;

namespace {

struct options {
  bool replay = false, json = false;
  std::size_t repetitions = 11;
  std::string recording = TROPILLA_POOL_MIX;
  std::uint64_t operations = 1'000'000;
};

options parse(int count, char** arguments) {
  options out;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == count)
        throw error(errc::invalid_argument, fmt::format("{} needs a value", name));
      return arguments[++i];
    };
    if (name == "--replay")
      out.replay = true;
    else if (name == "--json")
      out.json = true;
    else if (name == "--repetitions")
      out.repetitions = std::clamp(std::stoul(value()), 1UL, 1000UL);
    else if (name == "--mix")
      out.recording = value();
    else if (name == "--operations")
      out.operations = std::stoull(value());
    else
      throw error(
          errc::invalid_argument,
          fmt::format("unknown option {}; known are --replay --json --repetitions N --mix FILE --operations N", name));
  }
  return out;
}

struct spread {
  double median = 0, least = 0, greatest = 0;
};

struct row {
  std::string name;
  spread at_once, among;
};

constexpr std::size_t pairs = 200'000, live = 1000;

/// The same sizes and victims for every allocator: 64 B to 64 KiB, small ones as likely as large ones.
struct script {
  std::vector<std::size_t> sizes, victims;
  script() {
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < pairs; ++i) {
      sizes.push_back((std::size_t{64} << (random() % 10)) + random() % 64);
      victims.push_back(random() % live);
    }
  }
};

template <typename Run>
spread measure(std::size_t repetitions, Run&& run) {
  std::vector<double> ns;
  for (std::size_t i = 0; i <= repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    if (i > 0) // the first warms up
      ns.push_back(passed.count() / static_cast<double>(pairs));
  }
  std::sort(ns.begin(), ns.end());
  return {ns[ns.size() / 2], ns.front(), ns.back()};
}

/// `Handle allocate(bytes)`, `release(Handle&)`.
template <typename Allocate, typename Release>
row pairs_of(const std::string& name, const options& o, const script& s, Allocate allocate, Release release) {
  row out{name, {}, {}};
  out.at_once = measure(o.repetitions, [&] {
    for (std::size_t i = 0; i < pairs; ++i) {
      auto block = allocate(s.sizes[i]);
      asm volatile("" : : "r"(&block) : "memory"); // or the compiler drops malloc and free as a pair
      release(block);
    }
  });
  std::vector<decltype(allocate(0))> blocks;
  for (std::size_t i = 0; i < live; ++i)
    blocks.push_back(allocate(s.sizes[i]));
  out.among = measure(o.repetitions, [&] {
    for (std::size_t i = 0; i < pairs; ++i) {
      auto& block = blocks[s.victims[i]];
      release(block);
      block = allocate(s.sizes[i]);
    }
  });
  for (auto& block : blocks)
    release(block);
  return out;
}

std::vector<row> all_pairs(const options& o, cuda_pool& of_cuda) {
  constexpr std::size_t reservation = std::size_t{1} << 30;
  const script s;
  std::vector<row> rows;
  pool p(reservation, 64);
  rows.push_back(pairs_of(
      "pool", o, s, [&](std::size_t bytes) { return *p.allocate(bytes); }, [&](const pool::block& b) { p.free(b); }));
  const auto arbiter = memory_arbiter::make();
  arbiter->add_device("host:0", nullptr, reservation, reservation, 64);
  memory_request request{"host:0", 0, purpose::kv, priority::normal};
  rows.push_back(pairs_of(
      "lease", o, s,
      [&](std::size_t bytes) {
        request.bytes = bytes;
        return std::get<lease>(arbiter->try_acquire(request));
      },
      [](lease& l) { l.reset(); }));
  rows.push_back(pairs_of(
      "malloc", o, s, [](std::size_t bytes) { return std::malloc(bytes); }, [](void* b) { std::free(b); }));
#ifdef TROPILLA_MIMALLOC
  rows.push_back(pairs_of(
      "mimalloc", o, s, [](std::size_t bytes) { return mi_malloc(bytes); }, [](void* b) { mi_free(b); }));
#endif
  if (of_cuda.not_measured_because().empty())
    rows.push_back(pairs_of(
        "cudaMallocAsync", o, s, [&](std::size_t bytes) { return of_cuda.allocate(bytes); },
        [&](void* b) { of_cuda.free(b); }));
  return rows;
}

void print_pairs(const options& o) {
  cuda_pool of_cuda;
  const auto rows = all_pairs(o, of_cuda);
  if (o.json) {
    nlohmann::json out = nlohmann::json::array();
    const auto figures = [](const spread& s) {
      return nlohmann::json{{"median_ns", s.median}, {"least_ns", s.least}, {"greatest_ns", s.greatest}};
    };
    for (const auto& r : rows)
      out.push_back({{"name", r.name}, {"at_once", figures(r.at_once)}, {"among_1000", figures(r.among)}});
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("allocate and free, ns: median (least to greatest) of {} times {} pairs\n", o.repetitions, pairs);
  fmt::print("{:<15} {:>24} {:>24}\n", "", "at once", "among 1000");
  const auto figures = [](const spread& s) {
    return fmt::format("{:.1f} ({:.1f} to {:.1f})", s.median, s.least, s.greatest);
  };
  for (const auto& r : rows)
    fmt::print("{:<15} {:>24} {:>24}\n", r.name, figures(r.at_once), figures(r.among));
#ifndef TROPILLA_MIMALLOC
  fmt::print("{:<15} not built: libmimalloc-dev was not there\n", "mimalloc");
#endif
  if (const auto& why = of_cuda.not_measured_because(); !why.empty())
    fmt::print("{:<15} not measured: {}\n", "cudaMallocAsync", why);
}

void print_replay(const options& o) {
  const auto recording = read_recording(o.recording);
  const std::size_t peak = peak_bytes(recording);
  constexpr double mib = 1 << 20;
  nlohmann::json out = nlohmann::json::array();
  if (!o.json)
    fmt::print("{}\n{} allocations a round, {:.1f} MiB in use at most\n", recording.how, recording.allocations.size(),
               static_cast<double>(peak) / mib);
  for (const auto& [name, rule] :
       {std::pair("one end", placement_rule::one_end), std::pair("two ends", placement_rule::two_ends),
        std::pair("slabs", placement_rule::slabs)}) {
    replay_options r{.operations = o.operations, .capacity = peak + peak / 4 + (std::size_t{64} << 20), .rule = rule};
    const auto at_ease = replay(recording, r); // as the runtime reserves: address space is free
    const auto smallest = smallest_capacity(recording, {.operations = 0, .capacity = 0, .rule = rule});
    const double beyond = static_cast<double>(smallest) / static_cast<double>(peak) - 1;
    if (o.json) {
      out.push_back({{"placement", name},
                     {"operations", at_ease.operations},
                     {"rounds", at_ease.rounds},
                     {"misplaced", at_ease.misplaced},
                     {"wall_s", at_ease.wall_s},
                     {"peak_bytes", peak},
                     {"in_use_mean", at_ease.in_use_mean},
                     {"waste", at_ease.waste},
                     {"scatter_mean", at_ease.scatter_mean},
                     {"scatter_p95", at_ease.scatter_p95},
                     {"smallest_beyond_peak", beyond}});
      continue;
    }
    fmt::print("{}: {} operations in {} rounds, {:.0f}% of the peak in use on average, {} blocks without a place; "
               "{:.1f} s\n",
               name, at_ease.operations, at_ease.rounds, at_ease.in_use_mean * 100, at_ease.misplaced, at_ease.wall_s);
    fmt::print("  free bytes outside of the largest free block: {:.1f}% on average, {:.1f}% at the 95th percentile\n"
               "  address space taken beyond the peak, at most: {:.1f}%; the smallest pool that has a place for every "
               "block exceeds the peak by {:.1f}%\n",
               at_ease.scatter_mean * 100, at_ease.scatter_p95 * 100, at_ease.waste * 100, beyond * 100);
  }
  if (o.json)
    fmt::print("{}\n", out.dump(2));
}

} // namespace

int main(int count, char** arguments) {
  try {
    const options o = parse(count, arguments);
    o.replay ? print_replay(o) : print_pairs(o);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_pool: {}\n", e.what());
    return 2;
  }
}
