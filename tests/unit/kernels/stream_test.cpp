// Streams on threads, and events.
#include "kernels/thread_stream.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using namespace tropilla;

TEST_CASE("an empty event is done") {
  const event e;
  CHECK(e.done());
  e.wait();
  bool called = false;
  e.then([&] { called = true; });
  CHECK(called);
}

TEST_CASE("what follows an event is called once, before or after it is done") {
  const auto e = event::make();
  CHECK_FALSE(e.done());
  int early = 0, late = 0;
  e.then([&] { ++early; });
  CHECK(early == 0);
  e.complete();
  CHECK(e.done());
  CHECK(early == 1);
  e.then([&] { ++late; });
  CHECK(late == 1);
  e.complete();
  CHECK(early == 1);
}

TEST_CASE("jobs of a stream run in the order of the calls, on one thread") {
  for (const auto spin : {std::chrono::microseconds(0), std::chrono::microseconds(50)}) {
    thread_stream s("test stream", spin);
    CHECK(s.name() == "test stream");
    std::vector<int> order;
    std::vector<std::thread::id> threads;
    for (int i = 0; i < 500; ++i)
      s.enqueue([&, i] {
        order.push_back(i);
        threads.push_back(std::this_thread::get_id());
      });
    s.synchronize();
    REQUIRE(order.size() == 500);
    for (int i = 0; i < 500; ++i)
      REQUIRE(order[static_cast<std::size_t>(i)] == i);
    CHECK(std::count(threads.begin(), threads.end(), threads.front()) == 500);
    CHECK(threads.front() != std::this_thread::get_id());
  }
}

TEST_CASE("a recorded event is done when everything before it is") {
  thread_stream s("test");
  const auto gate = event::make();
  bool ran = false;
  s.enqueue([&] {
    gate.wait();
    ran = true;
  });
  const auto e = s.record();
  CHECK_FALSE(e.done());
  gate.complete();
  e.wait();
  CHECK(ran);
  CHECK(e.done());
}

TEST_CASE("a stream waits for an event of another") {
  thread_stream first("first"), second("second");
  const auto gate = event::make();
  int value = 0; // plain memory: the event orders it
  first.enqueue([&] {
    gate.wait();
    value = 1;
  });
  second.wait(first.record());
  int seen = 0;
  second.enqueue([&] { seen = value; });
  gate.complete();
  second.synchronize();
  CHECK(seen == 1);
}

TEST_CASE("destroying a stream runs what was enqueued") {
  int runs = 0;
  {
    thread_stream s("test");
    for (int i = 0; i < 100; ++i)
      s.enqueue([&] { ++runs; });
  }
  CHECK(runs == 100);
}

TEST_CASE("many threads enqueue to one stream and wait for each other's events") {
  thread_stream s("test", std::chrono::microseconds(20));
  int runs = 0;
  std::atomic<int> callbacks = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          s.enqueue([&] { ++runs; });
          const auto e = s.record();
          e.then([&] { ++callbacks; });
          if (i % 10 == 0)
            e.wait();
        }
      });
  }
  s.synchronize();
  CHECK(runs == 800);
  CHECK(callbacks == 800);
}

TEST_CASE("jobs may enqueue more jobs") {
  thread_stream s("test");
  int runs = 0;
  s.enqueue([&] { s.enqueue([&] { ++runs; }); });
  s.synchronize(); // the first job is done, and with it the second is enqueued
  s.synchronize();
  CHECK(runs == 1);
}
