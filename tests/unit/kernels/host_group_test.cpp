// Groups of host devices: what every rank has after a call, and what becomes of calls when a rank does not come.
#include "kernels/collective.hpp"
#include "kernels/host/host_device.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace tropilla;
using namespace std::chrono_literals;

namespace {

using bytes = std::vector<std::byte>;
using counts = std::vector<std::size_t>;

/// Where a bug would wait for ever, the group fails, and with it the test.
constexpr auto far_limit = 60s;

/// Devices and their ends of a group.
struct host_ranks {
  std::vector<std::unique_ptr<device>> devices;
  std::vector<std::unique_ptr<communicator>> ends;

  explicit host_ranks(const counts& workers, std::chrono::milliseconds limit = far_limit)
      : ends(make_host_group(workers, limit)) {
    auto cpus = host::read_topology();
    for (const std::size_t w : workers) {
      devices.push_back(std::make_unique<host::host_device>(
          host_options{.name = fmt::format("host:{}", devices.size()), .threads = w}, cpus));
      cpus = host::units_from(std::move(cpus), 1); // else all begin with the same core
    }
  }

  /// Runs a job on some of the ranks at the same time, and waits for all.
  void run(const std::function<void(communicator&, ops&)>& job, const counts& only) {
    for (const std::size_t r : only)
      devices[r]->enqueue([&job, &end = *ends[r]](ops& o) { job(end, o); });
    for (const std::size_t r : only)
      devices[r]->compute_stream().synchronize();
  }
  void run(const std::function<void(communicator&, ops&)>& job) {
    counts all(ends.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    run(job, all);
  }

  [[nodiscard]] std::string failure() const {
    std::string all;
    for (const auto& end : ends)
      if (const auto failed = end->failure(); failed)
        all += fmt::format("{}: {}\n", to_string(failed->code()), failed->what());
    return all;
  }
};

/// One to four ranks with one to three workers, not the same number everywhere.
std::vector<counts> groups() {
  return {{1}, {3}, {1, 1}, {2, 1}, {2, 3}, {1, 1, 1}, {3, 1, 2}, {1, 1, 1, 1}, {2, 2, 1, 3}};
}

std::size_t below(std::mt19937& random, std::size_t n) {
  return random() % n;
}

/// Where the units of each rank begin in a row: some ranks may have none.
counts random_bounds(std::mt19937& random, std::size_t ranks, std::size_t units) {
  counts bounds{0};
  for (std::size_t r = 1; r < ranks; ++r)
    bounds.push_back(below(random, units + 1));
  bounds.push_back(units);
  std::sort(bounds.begin(), bounds.end());
  return bounds;
}

bytes random_bytes(std::mt19937& random, std::size_t count) {
  bytes out(count);
  std::generate(out.begin(), out.end(), [&] { return static_cast<std::byte>(random()); });
  return out;
}

/// Floats of very different sizes, whose sum depends on the order.
std::vector<float> random_values(std::mt19937& random, std::size_t count) {
  std::vector<float> out(count);
  std::generate(out.begin(), out.end(), [&] {
    return std::ldexp(static_cast<float>(below(random, 2001)) - 1000, static_cast<int>(below(random, 40)) - 20);
  });
  return out;
}

/// What `all_gather` is to do, for the buffers of all ranks.
void gather_plainly(std::vector<std::byte*> all, std::size_t stride, std::size_t unit, std::size_t rows,
                    const counts& bounds) {
  for (std::size_t to = 0; to < all.size(); ++to)
    for (std::size_t from = 0; from < all.size(); ++from)
      for (std::size_t row = 0; row < rows && from != to; ++row)
        for (std::size_t i = bounds[from] * unit; i < bounds[from + 1] * unit; ++i)
          all[to][row * stride + i] = all[from][row * stride + i];
}

/// The sums in the order of the ranks.
std::vector<float> sums_of(const std::vector<std::vector<float>>& values) {
  auto sums = values[0];
  for (std::size_t r = 1; r < values.size(); ++r)
    for (std::size_t i = 0; i < sums.size(); ++i)
      sums[i] += values[r][i];
  return sums;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

/// Calls of each kind, of which none returns before the other rank has come. For groups of two or three ranks, where
/// rank 1 is the other one.
const std::vector<std::pair<std::string, std::function<void(communicator&, ops&)>>>& waiting_calls() {
  static const counts bounds{0, 1, 2, 2};
  static const auto data = [](communicator& c) {
    alignas(64) static std::array<std::array<std::byte, 64>, 3> all;
    return all[c.rank()].data();
  };
  static const std::vector<std::pair<std::string, std::function<void(communicator&, ops&)>>> calls{
      {"an all-gather",
       [](communicator& c, ops& o) {
         const gathered_rows row = in_place(data(c), 8, 4, bounds[c.rank()]);
         c.all_gather(o, {&row, 1}, 1, {bounds.data(), c.ranks() + 1});
       }},
      {"an all-reduce", [](communicator& c, ops& o) { c.all_reduce(o, reinterpret_cast<float*>(data(c)), 4); }},
      {"a broadcast", [](communicator& c, ops& o) { c.broadcast(o, data(c), 8, 0); }},
      {"a send",
       [](communicator& c, ops& o) {
         if (c.rank() != 1)
           c.receive(o, data(c), 8, 1);
       }},
      {"a receive",
       [](communicator& c, ops& o) {
         if (c.rank() != 1) {
           c.send(o, data(c), 8, 1);
           c.send(o, data(c), 8, 1); // waits for the first
         }
       }},
  };
  return calls;
}

/// Calls everything that can wait, on every rank by itself.
void call_each_alone(host_ranks& ranks) {
  for (std::size_t r = 0; r < ranks.ends.size(); ++r)
    for (const auto& [name, call] : waiting_calls())
      ranks.run(call, {r});
}

} // namespace

TEST_CASE("after an all-gather every rank has all units where they lie, and nothing else has changed") {
  std::mt19937 random(1);
  for (const auto& workers : groups()) {
    const std::size_t ranks = workers.size();
    struct array {
      std::size_t unit, stride;
      std::vector<bytes> has, expected; // by rank
    };
    struct call {
      std::size_t rows;
      counts bounds;
      std::vector<array> arrays;
    };
    std::vector<call> calls(40);
    for (auto& c : calls) {
      const std::size_t units = below(random, 70);
      c.rows = below(random, 6);
      c.bounds = random_bounds(random, ranks, units);
      c.arrays.resize(below(random, 10));
      for (auto& a : c.arrays) {
        a.unit = 1 + below(random, 40);
        a.stride = units * a.unit + below(random, 20);
        for (std::size_t r = 0; r < ranks; ++r)
          a.has.push_back(random_bytes(random, c.rows * a.stride));
        a.expected = a.has;
        std::vector<std::byte*> all;
        for (auto& e : a.expected)
          all.push_back(e.data());
        gather_plainly(all, a.stride, a.unit, c.rows, c.bounds);
      }
    }
    host_ranks group(workers);
    group.run([&](communicator& c, ops& o) {
      for (auto& call : calls) {
        std::vector<gathered_rows> arrays;
        for (auto& a : call.arrays)
          arrays.push_back(in_place(a.has[c.rank()].data(), a.stride, a.unit, call.bounds[c.rank()]));
        c.all_gather(o, arrays, call.rows, call.bounds);
      }
    });
    CHECK(group.failure().empty());
    for (const auto& c : calls)
      for (const auto& a : c.arrays)
        CHECK((a.has == a.expected));
  }
}

TEST_CASE("ranks whose rows lie at different strides gather from each other") {
  constexpr std::size_t rows = 5, unit = 3, units = 8;
  const counts bounds{0, 5, 8}, strides{24, 31};
  std::mt19937 random(2);
  std::array<bytes, 2> has{random_bytes(random, rows * strides[0]), random_bytes(random, rows * strides[1])};
  auto expected = has;
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t i = 0; i < units * unit; ++i)
      (i < 15 ? expected[1] : expected[0])[row * strides[i < 15 ? 1 : 0] + i] =
          has[i < 15 ? 0 : 1][row * strides[i < 15 ? 0 : 1] + i];
  host_ranks group({2, 1});
  group.run([&](communicator& c, ops& o) {
    const gathered_rows all = in_place(has[c.rank()].data(), strides[c.rank()], unit, bounds[c.rank()]);
    c.all_gather(o, {&all, 1}, rows, bounds);
  });
  CHECK((has == expected));
}

TEST_CASE("parts that lie apart are gathered by the ranks that want them, in units of several values") {
  constexpr std::size_t rows = 3, unit = 5, unit_values = 32, units = 7;
  const auto [values, width] = GENERATE(table<std::size_t, std::size_t>(
      {{units * unit_values, units * unit},             // whole units
       {units * unit_values - 19, units * unit},        // the last is a part of one, and padded
       {units * unit_values - 19, units * unit - 2}})); // or not to its end
  const counts bounds{0, 2 * unit_values, 2 * unit_values, values};
  std::mt19937 random(8);
  const auto whole = random_bytes(random, rows * width);
  std::array<bytes, 3> parts, all;
  counts widths;
  for (std::size_t r = 0; r < 3; ++r) {
    const std::size_t first = bounds[r] / unit_values * unit;
    const std::size_t last = r == 2 ? width : bounds[r + 1] / unit_values * unit;
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t i = first; i < last; ++i)
        parts[r].push_back(whole[row * width + i]);
    widths.push_back(last - first);
    all[r].resize(whole.size());
  }
  host_ranks group({1, 2, 3});
  group.run([&, stride = width](communicator& c, ops& o) {
    const std::size_t r = c.rank();
    const gathered_rows arrays[] = {
        {parts[r].data(), widths[r], r == 1 ? nullptr : all[r].data(), stride, unit, unit_values}};
    c.all_gather(o, arrays, rows, bounds);
  });
  CHECK((all[0] == whole));
  CHECK((all[1] == bytes(whole.size()))); // which wanted none
  CHECK((all[2] == whole));
}

TEST_CASE("values of which each comes from one rank are on all of them, whatever their bits") {
  std::mt19937 random(9);
  for (const auto& workers : groups()) {
    constexpr std::size_t count = 1000;
    std::vector<float> whole(count);
    std::vector<std::vector<float>> values(workers.size(), whole);
    for (std::size_t i = 0; i < count; ++i) {
      whole[i] = std::bit_cast<float>(i < 10 ? 0x80000000U : static_cast<std::uint32_t>(random())); // -0 first
      values[below(random, workers.size())][i] = whole[i];
    }
    host_ranks group(workers);
    group.run([&](communicator& c, ops& o) { c.combine(o, values[c.rank()].data(), count); });
    for (const auto& v : values)
      CHECK(same_bits(v, whole));
  }
}

TEST_CASE("every rank has the bits of the sums in the order of the ranks, whatever the number of workers") {
  std::mt19937 random(3);
  for (const auto& workers : groups()) {
    host_ranks group(workers);
    for (const std::size_t count : {0, 1, 15, 16, 17, 100, 1000, 4099}) {
      std::vector<std::vector<float>> values;
      for (std::size_t r = 0; r < workers.size(); ++r)
        values.push_back(random_values(random, count));
      const auto sums = sums_of(values);
      group.run([&](communicator& c, ops& o) { c.all_reduce(o, values[c.rank()].data(), count); });
      for (const auto& v : values)
        CHECK(same_bits(v, sums));
    }
    CHECK(group.failure().empty());
  }
}

TEST_CASE("after a broadcast every rank has the bytes of the root") {
  std::mt19937 random(4);
  for (const auto& workers : groups()) {
    host_ranks group(workers);
    for (std::size_t root = 0; root < workers.size(); ++root)
      for (const std::size_t count : {0, 1, 63, 64, 1000}) {
        std::vector<bytes> has;
        for (std::size_t r = 0; r < workers.size(); ++r)
          has.push_back(random_bytes(random, count));
        const auto expected = has[root];
        group.run([&](communicator& c, ops& o) { c.broadcast(o, has[c.rank()].data(), count, root); });
        for (const auto& h : has)
          CHECK((h == expected));
      }
    CHECK(group.failure().empty());
  }
}

TEST_CASE("two of three ranks send to each other, and messages keep their order") {
  std::mt19937 random(5);
  std::vector<bytes> there, back; // what rank 0 sends, and what rank 2 does
  for (std::size_t i = 0; i < 100; ++i) {
    there.push_back(random_bytes(random, below(random, 3) * below(random, 300)));
    back.push_back(random_bytes(random, below(random, 300)));
  }
  auto got_there = there, got_back = back;
  for (auto* const got : {&got_there, &got_back})
    for (auto& g : *got)
      std::fill(g.begin(), g.end(), std::byte{0});
  host_ranks group({1, 1, 3});
  group.run(
      [&](communicator& c, ops& o) {
        for (std::size_t i = 0; i < there.size(); ++i)
          if (c.rank() == 0) {
            c.send(o, there[i].data(), there[i].size(), 2);
            c.receive(o, got_back[i].data(), got_back[i].size(), 2);
          } else {
            c.receive(o, got_there[i].data(), got_there[i].size(), 0);
            c.send(o, back[i].data(), back[i].size(), 0);
          }
      },
      {0, 2});
  CHECK(group.failure().empty());
  CHECK((got_there == there));
  CHECK((got_back == back));
}

TEST_CASE("random sequences of calls over two buffers by turns are what a plain model says") {
  constexpr std::size_t size = 4096, steps = 150;
  enum class kind : std::uint8_t { gather, reduce, broadcast, send };
  struct step {
    kind what;
    bool written;      // by every rank before the call
    std::size_t count; // of rows, floats or bytes
    std::size_t unit, from, to;
    counts bounds;
    std::vector<bytes> before, after; // by rank: what is written, what a rank has of the buffer afterwards
  };
  for (const auto& workers : groups()) {
    const std::size_t ranks = workers.size();
    std::mt19937 random(static_cast<std::uint32_t>(100 + ranks + workers[0]));
    std::vector<step> script(steps);
    std::array<std::vector<bytes>, 2> model; // of the two buffers
    for (auto& m : model)
      m.assign(ranks, bytes(size));
    std::size_t turns = 0;
    for (auto& s : script) {
      s.what = static_cast<kind>(below(random, ranks > 1 ? 4 : 3));
      s.unit = 1 + below(random, 16);
      s.from = below(random, ranks);
      s.to = (s.from + 1 + below(random, std::max<std::size_t>(1, ranks - 1))) % ranks;
      s.written = s.what == kind::reduce || s.what == kind::send || below(random, 3) > 0;
      if (s.what == kind::send) {
        s.count = below(random, size);
        s.before = {random_bytes(random, s.count)};
        continue;
      }
      auto& now = model[turns++ % 2];
      for (std::size_t r = 0; r < ranks; ++r) {
        s.before.push_back(random_bytes(random, size));
        if (s.what == kind::reduce) { // no NaN, of which any may be the sum
          const auto values = random_values(random, size / sizeof(float));
          std::memcpy(s.before[r].data(), values.data(), size);
        }
      }
      if (s.written)
        now = s.before;
      if (s.what == kind::gather) {
        const std::size_t units = below(random, 100 / s.unit + 1);
        s.count = below(random, size / 128);
        s.bounds = random_bounds(random, ranks, units);
        std::vector<std::byte*> all;
        for (auto& n : now)
          all.push_back(n.data());
        gather_plainly(all, 128, s.unit, s.count, s.bounds);
      } else if (s.what == kind::reduce) {
        s.count = 1 + below(random, size / sizeof(float));
        std::vector<std::vector<float>> values(ranks, std::vector<float>(s.count));
        for (std::size_t r = 0; r < ranks; ++r)
          std::memcpy(values[r].data(), now[r].data(), s.count * sizeof(float));
        const auto sums = sums_of(values);
        for (auto& n : now)
          std::memcpy(n.data(), sums.data(), s.count * sizeof(float));
      } else {
        s.count = below(random, size);
        for (std::size_t r = 0; r < ranks; ++r)
          std::copy_n(now[s.from].begin(), s.count, now[r].begin());
      }
      s.after = now;
    }

    struct memory { // of a rank
      std::array<bytes, 2> turns{bytes(size), bytes(size)};
      std::vector<std::array<bytes, 2>> outgoing; // to each rank, by turns
      std::vector<bytes> had;                     // after each step
    };
    std::vector<memory> has(ranks);
    for (auto& h : has) {
      h.outgoing.assign(ranks, {bytes(size), bytes(size)});
      h.had.resize(steps);
    }
    host_ranks group(workers);
    group.run([&](communicator& c, ops& o) {
      auto& own = has[c.rank()];
      std::size_t turn = 0;
      counts sent(ranks);
      for (std::size_t i = 0; i < steps; ++i) {
        const step& s = script[i];
        if (s.what == kind::send && c.rank() == s.from) {
          auto& message = own.outgoing[s.to][sent[s.to]++ % 2];
          if (o.worker() == 0)
            std::copy(s.before[0].begin(), s.before[0].end(), message.begin());
          o.barrier();
          c.send(o, message.data(), s.count, s.to);
        } else if (s.what == kind::send && c.rank() == s.to) {
          if (o.worker() == 0)
            own.had[i].resize(s.count);
          o.barrier();
          c.receive(o, own.had[i].data(), s.count, s.from);
        } else if (s.what != kind::send) {
          auto& buffer = own.turns[turn++ % 2];
          if (o.worker() == 0 && s.written)
            buffer = s.before[c.rank()];
          o.barrier();
          if (s.what == kind::gather) {
            const gathered_rows rows = in_place(buffer.data(), 128, s.unit, s.bounds[c.rank()]);
            c.all_gather(o, {&rows, 1}, s.count, s.bounds);
          } else if (s.what == kind::reduce) {
            c.all_reduce(o, reinterpret_cast<float*>(buffer.data()), s.count);
          } else {
            c.broadcast(o, buffer.data(), s.count, s.from);
          }
          if (o.worker() == 0)
            own.had[i] = buffer;
        }
      }
    });
    CHECK(group.failure().empty());
    for (std::size_t i = 0; i < steps; ++i) {
      const step& s = script[i];
      for (std::size_t r = 0; r < ranks; ++r)
        if (s.what != kind::send)
          CHECK((has[r].had[i] == s.after[r])); // in brackets: no failure prints thousands of bytes
        else if (r == s.to)
          CHECK((has[r].had[i] == s.before[0]));
    }
  }
}

TEST_CASE("an abort from another thread ends every call that waits, and all calls after it") {
  for (const auto& [name, call] : waiting_calls()) {
    INFO(name);
    host_ranks ranks({2, 1, 1}, 0ms);
    std::atomic<int> begun = 0;
    ranks.devices[0]->enqueue([&, &call = call](ops& o) {
      ++begun;
      call(*ranks.ends[0], o);
    });
    while (begun < 2)
      std::this_thread::yield();
    CHECK(ranks.failure().empty());
    ranks.ends[2]->abort({errc::cancelled, "enough"});
    ranks.ends[1]->abort({errc::internal, "too late to be the reason"});
    ranks.devices[0]->compute_stream().synchronize();
    CHECK(ranks.failure() == "cancelled: enough\ncancelled: enough\ncancelled: enough\n");
    call_each_alone(ranks);
  }
}

TEST_CASE("a rank that does not come within the limit is named, and no later call waits") {
  for (const auto& [name, call] : waiting_calls()) {
    host_ranks ranks({1, 1, 2}, 5ms);
    ranks.run(call, {0, 2});
    const auto failure = ranks.ends[1]->failure();
    REQUIRE(failure);
    CHECK(failure->code() == errc::device_failed);
    CHECK_THAT(failure->what(), Catch::Contains(fmt::format("rank 1 of 3 did not come to {} within 5 ms", name)));
    call_each_alone(ranks);
    CHECK(ranks.ends[0]->failure()->what() == std::string(failure->what()));
  }
}

TEST_CASE("a rank that comes late is waited for") {
  host_ranks ranks({1, 2});
  std::array<std::array<float, 3>, 2> values{{{1, 2, 3}, {4, 5, 6}}};
  const auto job = [&](std::size_t rank) {
    return [&, rank](ops& o) { ranks.ends[rank]->all_reduce(o, values[rank].data(), 3); };
  };
  ranks.devices[0]->enqueue(job(0));
  // What the late rank does first: more than the other spins for, without sleeping.
  ranks.devices[1]->enqueue([](ops&) {
    for (int i = 0; i < 20000; ++i)
      std::this_thread::yield();
  });
  ranks.devices[1]->enqueue(job(1));
  for (auto& d : ranks.devices)
    d->compute_stream().synchronize();
  CHECK(ranks.failure().empty());
  CHECK(values[0] == std::array<float, 3>{5, 7, 9});
  CHECK(values[1] == values[0]);
}

TEST_CASE("a message of another size than is to be received makes the group fail") {
  host_ranks ranks({1, 3});
  std::array<std::byte, 8> from{}, to{};
  to.fill(std::byte{7});
  ranks.run([&](communicator& c, ops& o) {
    if (c.rank() == 0)
      c.send(o, from.data(), 4, 1);
    else
      c.receive(o, to.data(), 8, 0);
  });
  const auto failure = ranks.ends[0]->failure();
  REQUIRE(failure);
  CHECK(failure->code() == errc::internal);
  CHECK(failure->what() == std::string("rank 0 sent 4 bytes, of which rank 1 was to receive 8"));
  CHECK(std::all_of(to.begin(), to.end(), [](std::byte b) { return b == std::byte{7}; }));
  call_each_alone(ranks);
}

TEST_CASE("a group has ranks, not too many, and each has workers") {
  const auto code_of = [](const counts& workers) -> std::optional<errc> {
    try {
      const auto ends = make_host_group(workers, 0ms);
      for (std::size_t r = 0; r < ends.size(); ++r)
        if (ends[r]->rank() != r || ends[r]->ranks() != workers.size())
          return errc::internal;
      return std::nullopt;
    } catch (const error& e) {
      return e.code();
    }
  };
  CHECK(code_of({}) == errc::invalid_argument);
  CHECK(code_of({1, 0}) == errc::invalid_argument);
  CHECK(code_of(counts(max_host_ranks + 1, 1)) == errc::invalid_argument);
  CHECK(code_of(counts(max_host_ranks, 1)) == std::nullopt);
  CHECK(code_of({4, 1024}) == std::nullopt);
}
