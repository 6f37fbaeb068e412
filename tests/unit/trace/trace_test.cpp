// Traces are JSON that Chrome and Perfetto read.
#include "src/trace/trace.hpp"

#include "tests/support/tiny_model.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

using namespace tropilla;

TEST_CASE("a trace has a named row per actor or stream and complete events in microseconds") {
  tracer t;
  const auto a = t.make_track("actor \"a\"");
  const auto b = t.make_track("stream b");
  CHECK(t.make_track("stream b") == b);
  const auto begin = tracer::clock::now();
  t.record(a, "first", begin, begin + std::chrono::microseconds(250), "rows", 7);
  std::thread other([&] { const trace_span span(&t, b, "second"); });
  other.join();
  { const trace_span nothing(nullptr, 0, "not recorded"); }
  CHECK(t.events() == 2);

  const auto path = testing::scratch() / "trace.json";
  t.write(path);
  const auto json = nlohmann::json::parse(std::ifstream(path));
  std::map<std::string, int> rows;
  const nlohmann::json* first = nullptr;
  std::string process;
  for (const auto& e : json.at("traceEvents")) {
    if (e.at("ph") == "M" && e.at("name") == "thread_name")
      rows[e.at("args").at("name").get<std::string>()] = e.at("tid").get<int>();
    else if (e.at("ph") == "M" && e.at("name") == "process_name")
      process = e.at("args").at("name");
    else if (e.at("ph") == "X" && e.at("name") == "first")
      first = &e;
  }
  CHECK(process == "tropilla");
  CHECK(rows.size() == 2);
  REQUIRE(first);
  CHECK(first->at("dur").get<double>() == Approx(250));
  CHECK(first->at("tid").get<int>() == rows.at("actor \"a\""));
  CHECK(first->at("args").at("rows") == 7);
}

TEST_CASE("an event may have two numbers") {
  tracer t;
  const auto at = tracer::clock::now();
  t.record(t.make_track("memory"), "KV pages", at, at, {"bytes", 64}, {"offset", 4096});
  const auto path = testing::scratch() / "two-numbers-trace.json";
  t.write(path);
  const auto json = nlohmann::json::parse(std::ifstream(path));
  CHECK(json.at("traceEvents").back().at("args") == nlohmann::json{{"bytes", 64}, {"offset", 4096}});
}

TEST_CASE("a counter has its values at each time, by series") {
  tracer t;
  const auto at = tracer::clock::now();
  const tracer::series first[] = {{"weights", 5}, {"KV pages", 7}}, second[] = {{"weights", 0}};
  t.counter("memory \"a\"", at, first);
  t.counter("memory \"a\"", at + std::chrono::microseconds(250), second);
  CHECK(t.events() == 2);

  const auto path = testing::scratch() / "counter-trace.json";
  t.write(path);
  const auto json = nlohmann::json::parse(std::ifstream(path));
  std::vector<nlohmann::json> counters;
  for (const auto& e : json.at("traceEvents"))
    if (e.at("ph") == "C")
      counters.push_back(e);
  REQUIRE(counters.size() == 2);
  CHECK(counters[0].at("name") == "memory \"a\"");
  CHECK(counters[0].at("args") == nlohmann::json{{"weights", 5}, {"KV pages", 7}});
  CHECK(counters[1].at("args") == nlohmann::json{{"weights", 0}});
  CHECK(counters[1].at("ts").get<double>() - counters[0].at("ts").get<double>() == Approx(250));
}

TEST_CASE("a trace that can't be written says so") {
  tracer t;
  CHECK_THROWS_AS(t.write("/nonexistent-folder/trace.json"), error);
}
