// Who gets bytes, who waits and who is refused; what is counted.
#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace tropilla;

namespace {

constexpr std::size_t kib = 1024;

std::shared_ptr<memory_arbiter> with_budget(std::size_t budget, std::size_t reservation = 1024 * kib) {
  auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, reservation, budget, 64);
  return a;
}

memory_request wants(std::size_t bytes, priority rank = priority::normal, purpose used_for = purpose::weights) {
  return {"host:0", bytes, used_for, rank};
}

} // namespace

TEST_CASE("a lease gives its bytes back with its last copy", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  {
    auto answer = a->try_acquire(wants(40 * kib, priority::normal, purpose::kv));
    lease first = std::get<lease>(std::move(answer));
    const lease copy = first;
    first.reset();
    CHECK(a->usage("host:0").in_use == 40 * kib);
    CHECK(a->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::kv)] == 40 * kib);
    CHECK(copy.bytes() == 40 * kib);
    CHECK(copy.used_for() == purpose::kv);
  }
  CHECK(a->usage("host:0").in_use == 0);
  CHECK(a->usage("host:0").high_water == 40 * kib);
}

TEST_CASE("what exceeds the budget is refused with the bytes that are missing", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  const auto answer = a->try_acquire(wants(101 * kib));
  REQUIRE(std::holds_alternative<refusal>(answer));
  CHECK(std::get<refusal>(answer).missing_bytes == kib);
  bool refused = false;
  a->acquire(wants(200 * kib), [&](const memory_arbiter::grant& g) { refused = std::holds_alternative<refusal>(g); });
  CHECK(refused); // at once: it would wait for ever
  CHECK(a->usage("host:0").waiters == 0);
}

TEST_CASE("waiters are served by rank, then in order, and none is overtaken by its equal", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  lease all = std::get<lease>(a->try_acquire(wants(100 * kib)));
  std::vector<int> order;
  std::vector<lease> held;
  const auto queue = [&](int name, std::size_t bytes, priority rank) {
    a->acquire(wants(bytes, rank), [&, name](memory_arbiter::grant g) {
      order.push_back(name);
      held.push_back(std::get<lease>(std::move(g)));
    });
  };
  queue(1, 60 * kib, priority::background);
  queue(2, 30 * kib, priority::normal);
  queue(3, 30 * kib, priority::normal);
  queue(4, 10 * kib, priority::urgent);
  CHECK(a->usage("host:0").waiters == 4);
  CHECK(std::holds_alternative<refusal>(a->try_acquire(wants(1, priority::normal))));
  all.reset();
  CHECK(order == std::vector<int>{4, 2, 3}); // 1 needs 60 of the 30 KiB that are left
  std::exchange(held, {}).clear();           // the next is served meanwhile
  CHECK(order == std::vector<int>{4, 2, 3, 1});
  std::exchange(held, {}).clear();
  CHECK(a->usage("host:0").in_use == 0);
}

TEST_CASE("who waits on one device holds up nobody on another", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  a->add_device("host:1", nullptr, 100 * kib, 50 * kib, 64);
  lease first = std::get<lease>(a->try_acquire(wants(100 * kib)));
  lease second = std::get<lease>(a->try_acquire({"host:1", 40 * kib, purpose::kv}));
  std::vector<std::string> order;
  std::vector<lease> held;
  const auto queue = [&](const memory_request& r) {
    return a->acquire(r, [&](memory_arbiter::grant g) {
      if (auto* granted = std::get_if<lease>(&g)) {
        order.emplace_back(granted->device());
        held.push_back(std::move(*granted));
      }
    });
  };
  queue(wants(kib, priority::urgent));
  const auto large = queue({"host:1", 50 * kib, purpose::kv, priority::urgent});
  queue({"host:1", kib, purpose::kv, priority::background});
  CHECK(order.empty()); // 1 KiB has room behind 50
  second.reset();
  CHECK(order == std::vector<std::string>{"host:1"});
  queue(wants(kib, priority::background));
  std::exchange(held, {}).clear();
  CHECK(order == std::vector<std::string>{"host:1", "host:1"});
  CHECK(!a->cancel(large));
  CHECK(std::holds_alternative<lease>(a->try_acquire({"host:1", kib, purpose::kv})));
  CHECK(a->usage("host:0").waiters == 2);
  CHECK(a->usage("host:1").waiters == 0);
  first.reset();
  CHECK(order == std::vector<std::string>{"host:1", "host:1", "host:0", "host:0"});
}

TEST_CASE("a cancelled waiter is answered once, with a refusal", "[memory_arbiter]") {
  const auto a = with_budget(10 * kib);
  lease all = std::get<lease>(a->try_acquire(wants(10 * kib)));
  int answers = 0;
  const auto ticket = a->acquire(wants(kib), [&](const memory_arbiter::grant& g) {
    ++answers;
    CHECK(std::holds_alternative<refusal>(g));
  });
  CHECK(a->cancel(ticket));
  CHECK(!a->cancel(ticket));
  all.reset();
  CHECK(answers == 1);
}

TEST_CASE("a waiter that is cancelled makes way for those behind it on its device", "[memory_arbiter]") {
  const auto a = with_budget(10 * kib);
  a->add_device("host:1", nullptr, 10 * kib, 10 * kib, 64);
  const lease first = std::get<lease>(a->try_acquire(wants(5 * kib)));
  const lease second = std::get<lease>(a->try_acquire({"host:1", 5 * kib, purpose::kv}));
  int refused = 0, granted = 0;
  const auto count = [&](const memory_arbiter::grant& g) { ++(std::holds_alternative<lease>(g) ? granted : refused); };
  a->acquire(wants(10 * kib), count);
  const auto ticket = a->acquire({"host:1", 10 * kib, purpose::kv}, count);
  a->acquire({"host:1", 5 * kib, purpose::kv}, count);
  CHECK(granted == 0);
  CHECK(a->cancel(ticket));
  CHECK(refused == 1);
  CHECK(granted == 1);
  CHECK(a->usage("host:0").waiters == 1);
  CHECK(a->usage("host:1").waiters == 0);
}

TEST_CASE("a budget that can never serve a waiter refuses it, and serves those behind it", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  const lease held = std::get<lease>(a->try_acquire(wants(50 * kib)));
  std::optional<refusal> refused;
  bool granted = false;
  a->acquire(wants(90 * kib), [&](memory_arbiter::grant g) { refused = std::get<refusal>(std::move(g)); });
  a->acquire(wants(20 * kib), [&](const memory_arbiter::grant& g) { granted = std::holds_alternative<lease>(g); });
  CHECK_FALSE(granted);
  a->set_budget("host:0", 80 * kib);
  REQUIRE(refused);
  CHECK(refused->missing_bytes == 10 * kib);
  CHECK(refused->message ==
        "90.0 KiB for weights on host:0: the whole budget is 80.0 KiB; it must be at least 90.0 KiB");
  CHECK(granted);
}

TEST_CASE("a budget changes at once in both directions", "[memory_arbiter]") {
  const auto a = with_budget(100 * kib);
  lease half = std::get<lease>(a->try_acquire(wants(50 * kib)));
  a->set_budget("host:0", 20 * kib); // the lease stays
  CHECK(a->usage("host:0").in_use == 50 * kib);
  CHECK(std::holds_alternative<refusal>(a->try_acquire(wants(kib))));
  int granted = 0;
  lease got;
  a->acquire(wants(15 * kib), [&](memory_arbiter::grant g) {
    got = std::get<lease>(std::move(g));
    ++granted;
  });
  CHECK(granted == 0);
  a->set_budget("host:0", 80 * kib);
  CHECK(granted == 1);
  CHECK_THROWS_AS(a->set_budget("host:0", 2048 * kib), error);
  CHECK_THROWS_AS(a->set_budget("host:7", kib), error);
}

TEST_CASE("threads that lease and give back never exceed the budget, and all of them come to their end",
          "[memory_arbiter]") {
  const auto a = with_budget(256 * kib, 512 * kib);
  std::atomic<int> served = 0;
  constexpr int threads = 4, rounds = 500;
  {
    std::vector<std::jthread> crowd;
    for (int t = 0; t < threads; ++t)
      crowd.emplace_back([&, t] {
        std::mt19937 random(static_cast<unsigned>(t));
        for (int i = 0; i < rounds; ++i) {
          std::atomic<bool> answered = false;
          const auto rank = static_cast<priority>(random() % 3);
          a->acquire(wants(1 + random() % (100 * kib), rank), [&](const memory_arbiter::grant& g) {
            if (std::holds_alternative<lease>(g))
              ++served; // and back at once
            answered = true;
            answered.notify_one();
          });
          answered.wait(false);
        }
      });
  }
  CHECK(served == threads * rounds);
  const device_usage u = a->usage("host:0");
  CHECK(u.in_use == 0);
  CHECK(u.waiters == 0);
  CHECK(u.high_water <= 256 * kib);
}

TEST_CASE("threads never share a byte, whatever is taken back and off the budget meanwhile", "[memory_arbiter]") {
  constexpr std::size_t granule = 64, granules = 4096, budget = 3072 * granule;
  std::vector<std::byte> memory(granules * granule);
  std::vector<std::atomic<int>> owner(granules); // the model: who has a granule, 0 nobody
  const auto a = memory_arbiter::make();
  device_setup setup{"host:0", memory.data(), memory.size(), budget, granule};
  std::atomic<int> mixed_up = 0;
  setup.trim = [&](std::size_t offset, std::size_t bytes) {
    for (std::size_t g = offset / granule; g < (offset + bytes) / granule; ++g)
      mixed_up += owner[g] != 0;
  };
  a->add_device(setup);
  const auto mark = [&](const lease& l, int from, int to) {
    const auto first = static_cast<std::size_t>(l.data() - memory.data()) / granule;
    for (std::size_t g = first; g < first + (l.bytes() + granule - 1) / granule; ++g)
      mixed_up += owner[g].exchange(to) != from;
  };
  std::mutex cache_lock;
  std::vector<lease> cache; // with owner -1
  const reclaimer give_back = [&](std::size_t bytes) {
    std::size_t given = 0;
    while (given < bytes) {
      lease one;
      {
        const std::lock_guard lock(cache_lock);
        if (cache.empty())
          break;
        one = std::move(cache.back());
        cache.pop_back();
      }
      mark(one, -1, 0);
      given += one.bytes();
    }
    return given;
  };
  const auto registered = a->add_reclaimer("host:0", give_back);
  constexpr int threads = 4, rounds = 300;
  std::atomic<int> refused = 0, preempted = 0;
  {
    std::vector<std::jthread> crowd;
    for (int t = 1; t <= threads; ++t)
      crowd.emplace_back([&, t] {
        std::mt19937 random(static_cast<unsigned>(t));
        std::vector<lease> held;
        const auto hold = [&](lease l) {
          mark(l, 0, t);
          held.push_back(std::move(l));
        };
        const auto acquire = [&](const memory_request& r) {
          lease granted;
          std::atomic<bool> done = false;
          a->acquire(r, [&](memory_arbiter::grant g) {
            if (auto* l = std::get_if<lease>(&g))
              granted = std::move(*l);
            done = true;
            done.notify_one();
          });
          done.wait(false);
          if (granted)
            hold(std::move(granted));
          else
            ++refused;
        };
        for (int i = 0; i < rounds; ++i) {
          std::size_t bytes = 0; // of at most three blocks: as one they fit the lowest budget
          const auto wants_more = [&] {
            const std::size_t more = 1 + random() % (500 * granule);
            bytes += more;
            return memory_request{"host:0", more, random() % 2 ? purpose::kv : purpose::ring,
                                  static_cast<priority>(random() % 3)};
          };
          acquire(wants_more());
          for (auto more = random() % 3; more > 0; --more) {
            auto request = wants_more();
            auto g = a->try_acquire(request);
            if (auto* l = std::get_if<lease>(&g)) {
              hold(std::move(*l));
              continue;
            }
            for (const auto& l : held)
              mark(l, t, 0);
            held.clear();
            ++preempted;
            request.bytes = bytes;
            acquire(request);
            break;
          }
          bool kept = false;
          for (auto& l : held) {
            const bool keep = random() % 4 == 0;
            mark(l, t, keep ? -1 : 0);
            if (!keep)
              continue;
            const std::lock_guard lock(cache_lock);
            cache.push_back(std::move(l));
            kept = true;
          }
          held.clear();
          if (const auto shortage = kept ? a->usage("host:0").shortage : 0; shortage > 0)
            give_back(shortage);
          if (t == 1)
            a->set_budget("host:0", i % 2 ? budget : budget / 2);
        }
      });
  }
  CHECK(refused == 0);
  CHECK(preempted > 0);
  CHECK(mixed_up == 0);
  cache.clear();
  CHECK(a->usage("host:0").in_use == 0);
  CHECK(a->usage("host:0").pool.largest_free == memory.size());
}

TEST_CASE("a device that has less memory than its budget refuses requests that wait and those that do not") {
  const auto a = memory_arbiter::make();
  bool has_memory = false;
  device_setup setup{"cuda:0", nullptr, 4096, 4096};
  setup.commit = [&](std::size_t, std::size_t) {
    return has_memory ? std::nullopt : std::optional<std::string>("the device has no memory left");
  };
  a->add_device(setup);
  const memory_request request{"cuda:0", 1024, purpose::weights, priority::normal};
  const auto sentence = Catch::Contains("1.0 KiB for weights on cuda:0: the device has no memory left");
  CHECK_THAT(std::get<refusal>(a->try_acquire(request)).message, sentence);
  std::optional<memory_arbiter::grant> answer;
  a->acquire(request, [&](memory_arbiter::grant g) { answer = std::move(g); });
  REQUIRE(answer);
  CHECK_THAT(std::get<refusal>(*answer).message, sentence);
  CHECK(a->usage("cuda:0").waiters == 0);
  CHECK(a->usage("cuda:0").in_use == 0);
  auto later = request; // a thread that writes asks
  later.commits_later = true;
  CHECK(std::holds_alternative<lease>(a->try_acquire(later)));
  has_memory = true;
  CHECK(std::holds_alternative<lease>(a->try_acquire(request)));
}

TEST_CASE("shares of the memory are read strictly") {
  CHECK(parse_percent("80%") == 80);
  CHECK(parse_percent("12.5%") == 12.5);
  CHECK(parse_percent("100%") == 100);
  CHECK(parse_percent("300MiB") == std::nullopt);
  CHECK(parse_percent("") == std::nullopt);
  for (const char* bad : {"%", "0%", "-1%", "100.1%", "101%", "80 %", " 80%", "80%%", "nan%", "inf%", "1e1%", "0x10%"})
    CHECK_THROWS_WITH(parse_percent(bad), Catch::Contains("write it like 80%"));
}

TEST_CASE("sizes are read and written as people do", "[bytes]") {
  CHECK(parse_bytes("300MiB") == 300 * kib * kib);
  CHECK(parse_bytes("1.5GiB") == 1536 * kib * kib);
  CHECK(parse_bytes("2GB") == 2000000000);
  CHECK(parse_bytes("17") == 17);
  for (const char* bad : {"", "MiB", "-1MiB", "1e400GiB", "99999999999GiB", "3 llamas", "nan"})
    CHECK_THROWS_AS(parse_bytes(bad), error);
}

TEST_CASE("an observer hears of every grant and return on its device, with what is in use by purpose",
          "[memory_arbiter]") {
  const auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, 64 * kib, 32 * kib, 64);
  a->add_device("host:1", nullptr, 64 * kib, 32 * kib, 64);
  std::vector<memory_change> heard;
  auto observation = a->observe("host:0", [&](const memory_change& c) { heard.push_back(c); });
  const auto kv = static_cast<std::size_t>(purpose::kv), weights = static_cast<std::size_t>(purpose::weights);

  lease first = std::get<lease>(a->try_acquire({"host:0", 20 * kib - 1, purpose::kv}));
  const lease elsewhere = std::get<lease>(a->try_acquire({"host:1", kib, purpose::kv}));
  CHECK(std::holds_alternative<refusal>(a->try_acquire({"host:0", 20 * kib, purpose::kv})));
  REQUIRE(heard.size() == 1);
  CHECK(heard[0].granted);
  CHECK(heard[0].used_for == purpose::kv);
  CHECK(heard[0].bytes == 20 * kib);
  CHECK(heard[0].in_use[kv] == 20 * kib);
  CHECK(heard[0].offset == 0); // KV pages lie at the low end

  lease second;
  a->acquire({"host:0", 16 * kib, purpose::weights},
             [&](memory_arbiter::grant g) { second = std::get<lease>(std::move(g)); });
  std::thread([&] { first.reset(); }).join(); // serves the second
  REQUIRE(heard.size() == 3);
  CHECK_FALSE(heard[1].granted);
  CHECK(heard[1].used_for == purpose::kv);
  CHECK(heard[1].in_use[kv] == 0);
  CHECK(heard[1].offset == 0);
  CHECK(heard[2].granted);
  CHECK(heard[2].in_use[weights] == 16 * kib);
  CHECK(heard[2].offset == 48 * kib);
  memory_request outside{"host:0", kib, purpose::weights};
  outside.outside = outside_memory{};
  REQUIRE(std::holds_alternative<lease>(a->try_acquire(outside)));
  REQUIRE(heard.size() == 5); // and back
  CHECK_FALSE(heard[3].offset);
  CHECK_FALSE(heard[4].offset);

  const auto copy = observation;
  observation.reset();
  second.reset();
  CHECK(heard.size() == 6);
}

TEST_CASE("an observer that is gone hears nothing, and an unknown device has none", "[memory_arbiter]") {
  const auto a = memory_arbiter::make();
  a->add_device("host:0", nullptr, 64 * kib, 32 * kib, 64);
  int first = 0, second = 0;
  auto one = a->observe("host:0", [&](const memory_change&) { ++first; });
  const auto other = a->observe("host:0", [&](const memory_change&) { ++second; });
  auto block = std::get<lease>(a->try_acquire({"host:0", kib, purpose::kv}));
  one.reset();
  block.reset();
  CHECK(first == 1);
  CHECK(second == 2);
  CHECK_THROWS_AS(a->observe("host:7", [](const memory_change&) {}), error);
}
