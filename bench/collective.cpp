// Measures what two host devices of one thread each need to exchange activations, beside the least that it can take.
//
//   bench_collective [--rounds N] [--calls N] [--width N] [--tokens N]
//
// Each rank writes its half of the buffers before each call, so that the values come out of the other core's caches.
// The limit of one token is what two threads need that know each other's buffers: each stores a number for the other,
// waits for the other's, and copies as many bytes at once. The limit of many tokens is one copy of as many bytes by
// each of the threads, at the same time. All cases take turns in every round, because machines are not equally fast
// from one second to the next.
#include "kernels/collective.hpp"
#include "kernels/activation_format.hpp"
#include "kernels/host/host_device.hpp"
#include "kernels/host/topology.hpp"
#include "kernels/spin.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace tropilla;

struct options {
  std::size_t rounds = 15, calls = 2000, width = 2048, tokens = 512;
};

options parse(int count, char** arguments) {
  options o;
  const std::pair<const char*, std::size_t*> known[] = {
      {"--rounds", &o.rounds}, {"--calls", &o.calls}, {"--width", &o.width}, {"--tokens", &o.tokens}};
  for (int i = 1; i < count; i += 2) {
    const auto* const found = std::find_if(std::begin(known), std::end(known),
                                           [&](const auto& k) { return std::string(arguments[i]) == k.first; });
    if (found == std::end(known) || i + 1 == count)
      throw error(errc::invalid_argument, fmt::format("{} is no option, or has no value", arguments[i]));
    *found->second = std::clamp(std::stoul(arguments[i + 1]), 1UL, 1UL << 20);
  }
  o.width = round_up(o.width, 2 * activation_padding);
  return o;
}

constexpr std::size_t two = 2;

/// A number that one thread counts up and the other waits for.
struct alignas(128) shared_number {
  std::atomic<std::size_t> value = 0;
  alignas(128) std::size_t counted = 0; ///< the writer's own
};

/// Rows whose first half rank 0 computes and whose second half rank 1 computes: what both have of them, twice, for
/// calls take the buffers by turns.
struct exchange {
  struct array {
    std::size_t unit, units; ///< bytes of one; of a row
    std::size_t place;       ///< in a buffer
    [[nodiscard]] std::size_t stride() const { return unit * units; }
  };
  std::vector<array> arrays;
  std::size_t rows = 1;
  std::size_t bytes = 0;                ///< of a buffer
  std::array<std::byte*, two> memory{}; ///< of the devices

  void add(std::size_t unit, std::size_t units) {
    arrays.push_back({unit, units, bytes});
    bytes += round_up(rows * unit * units, 4096);
  }
  [[nodiscard]] std::byte* buffer(std::size_t rank, std::size_t call) const { return memory[rank] + call % 2 * bytes; }
  [[nodiscard]] std::size_t exchanged() const {
    std::size_t half = 0;
    for (const auto& a : arrays)
      half += rows * a.stride() / 2;
    return half;
  }

  /// What a rank computes before a call, in its place in the rows, or as one piece.
  void write_half(std::size_t rank, std::size_t call) const {
    for (const auto& a : arrays)
      for (std::size_t row = 0; row < rows; ++row)
        std::memset(buffer(rank, call) + a.place + row * a.stride() + rank * a.stride() / 2, static_cast<int>(call),
                    a.stride() / 2);
  }
  void gather(communicator& c, ops& o, std::size_t call) const {
    std::array<gathered_rows, 8> all;
    std::transform(arrays.begin(), arrays.end(), all.begin(), [&](const array& a) {
      return in_place(buffer(c.rank(), call) + a.place, a.stride(), a.unit * a.units / 2, c.rank());
    });
    const std::array<std::size_t, 3> halves{0, 1, 2};
    c.all_gather(o, {all.data(), arrays.size()}, rows, halves);
  }
  void write_at_once(std::size_t rank, std::size_t call) const {
    std::memset(buffer(rank, call) + bytes / 2, static_cast<int>(call), exchanged());
  }
  void copy(std::size_t rank, std::size_t call) const {
    std::memcpy(buffer(rank, call), buffer(1 - rank, call) + bytes / 2, exchanged());
  }
};

/// Two devices of one thread each, on cores of their own.
struct pair_of_devices {
  std::vector<std::unique_ptr<host::host_device>> devices;
  std::vector<std::unique_ptr<communicator>> ranks;
  std::array<shared_number, two> numbers;

  pair_of_devices() : ranks(make_host_group(std::array<std::size_t, two>{1, 1}, std::chrono::seconds(10))) {
    const auto machine = host::read_topology();
    if (machine.cores < two)
      throw error(errc::unsupported, "one core can't show what two devices take: this needs two");
    for (std::size_t i = 0; i < two; ++i)
      devices.push_back(std::make_unique<host::host_device>(
          host_options{.name = fmt::format("host:{}", i), .threads = 1}, host::units_from(machine, i)));
  }

  /// Gives each case two buffers of each device.
  void allocate(std::initializer_list<exchange*> cases) {
    std::size_t bytes = 0;
    for (const auto* e : cases)
      bytes += 2 * e->bytes;
    for (std::size_t i = 0; i < two; ++i) {
      std::byte* memory = devices[i]->reserve(bytes);
      std::memset(memory, 1, bytes);
      for (auto* e : cases)
        memory = (e->memory[i] = memory) + 2 * e->bytes;
    }
  }

  /// Runs a job for each rank at the same time.
  void run(const std::function<void(std::size_t rank, ops& o)>& job) {
    for (std::size_t i = 0; i < two; ++i)
      devices[i]->enqueue([&job, i](ops& o) { job(i, o); });
    for (auto& d : devices)
      d->compute_stream().synchronize();
  }

  /// The least barrier of two threads.
  void meet(std::size_t rank) {
    const std::size_t number = ++numbers[rank].counted;
    numbers[rank].value.store(number, std::memory_order_release);
    while (numbers[1 - rank].value.load(std::memory_order_acquire) < number)
      relax();
  }
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Seconds of a call among many, with writing what it exchanges.
double seconds_of_call(pair_of_devices& p, const exchange& e, std::size_t calls, bool bare) {
  std::array<double, two> seconds{};
  p.run([&](std::size_t rank, ops& o) {
    p.meet(rank);
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t call = 0; call < calls; ++call) {
      if (bare) {
        e.write_at_once(rank, call);
        p.meet(rank);
        e.copy(rank, call);
      } else {
        e.write_half(rank, call);
        e.gather(*p.ranks[rank], o, call);
      }
    }
    seconds[rank] = seconds_since(start);
  });
  return std::max(seconds[0], seconds[1]) / static_cast<double>(calls);
}

/// Seconds of the call alone, which both ranks begin together.
double seconds_alone(pair_of_devices& p, const exchange& e, std::size_t calls, bool bare) {
  std::array<double, two> seconds{};
  p.run([&](std::size_t rank, ops& o) {
    for (std::size_t call = 0; call < calls; ++call) {
      if (bare)
        e.write_at_once(rank, call);
      else
        e.write_half(rank, call);
      p.meet(rank);
      const auto start = std::chrono::steady_clock::now();
      if (bare)
        e.copy(rank, call);
      else
        e.gather(*p.ranks[rank], o, call);
      seconds[rank] += seconds_since(start);
    }
  });
  return std::max(seconds[0], seconds[1]) / static_cast<double>(calls);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

/// One row of the table: measured and limit, in the same rounds.
struct measured {
  std::vector<double> call, limit;

  [[nodiscard]] double ratio() const { // of the limit's time to the call's
    std::vector<double> ratios;
    for (std::size_t i = 0; i < call.size(); ++i)
      ratios.push_back(limit[i] / call[i]);
    return median(ratios);
  }
};

std::string spread(std::vector<double> values, const std::function<double(double)>& f) {
  for (double& v : values)
    v = f(v);
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", median(values), *least, *greatest);
}

void run(const options& o) {
  pair_of_devices pair;
  exchange floats, quantised, many;
  floats.add(sizeof(float), o.width / 2);
  quantised.add(1, o.width);
  for (const std::size_t block : {32, 32, 16, 32, 16}) // scale, sum32, sum16, minus32, minus16
    quantised.add(4, o.width / block);
  many.rows = o.tokens;
  many.add(sizeof(float), o.width);
  pair.allocate({&floats, &quantised, &many});

  measured token, row, prompt;
  for (std::size_t round = 0; round <= o.rounds; ++round) {
    const auto add = [&](std::vector<double>& to, double seconds) {
      if (round > 0) // the first warms up
        to.push_back(seconds);
    };
    add(token.limit, seconds_of_call(pair, floats, o.calls, true));
    add(token.call, seconds_of_call(pair, floats, o.calls, false));
    add(row.limit, seconds_of_call(pair, quantised, o.calls, true));
    add(row.call, seconds_of_call(pair, quantised, o.calls, false));
    const std::size_t long_calls = divide_up(o.calls, 50);
    add(prompt.limit, seconds_alone(pair, many, long_calls, true));
    add(prompt.call, seconds_alone(pair, many, long_calls, false));
  }
  if (const auto failure = pair.ranks[0]->failure())
    throw error(*failure);

  fmt::print("{}, two devices of one thread; medians of {} rounds (least to greatest)\n\n"
             "| all-gather of | measured | limit | of the limit |\n"
             "| --- | ---: | ---: | ---: |\n",
             host::read_topology(host::topology_detail::all).processor, o.rounds);
  const auto us = [](double s) { return 1e6 * s; };
  fmt::print("| one token, {} floats, us | {} | {} | |\n", o.width / 2, spread(token.call, us),
             spread(token.limit, us));
  fmt::print("| one token, a quantised row of {}, us | {} | {} | |\n", o.width, spread(row.call, us),
             spread(row.limit, us));
  const auto gigabytes = [&](double s) { return static_cast<double>(two * many.exchanged()) / s / 1e9; };
  fmt::print("| {} tokens of {} floats, GB/s | {} | {} | {:.0f}% |\n", o.tokens, o.width,
             spread(prompt.call, gigabytes), spread(prompt.limit, gigabytes), 100 * prompt.ratio());
}

} // namespace

int main(int count, char** arguments) {
  try {
    run(parse(count, arguments));
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_collective: {}\n", e.what());
    return 2;
  }
  return 0;
}
