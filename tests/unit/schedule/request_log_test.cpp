// What is said of requests, at which level, and how often of all of them together.
#include "src/schedule/request_log.hpp"
#include "tests/support/log_keeper.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace std::chrono_literals;

namespace {

using shared_request = sequence::shared_request;

shared_request request_at(request_log::clock::time_point submitted, request_id id = 7) {
  sequence_request r;
  r.id = id;
  r.prompt = {1, 2, 3};
  r.submitted = submitted;
  return shared_request(std::move(r), 0);
}

/// A log of a clock that is moved by hand; what it said is kept when it is gone.
struct said {
  explicit said(testing::log_keeper& kept, log_level level = log_level::info)
      : all({.sink = kept.sink(), .level = level}), log(all.of(log_component::scheduler)) {}

  void step(std::chrono::seconds takes, std::size_t computed, std::size_t drawn) {
    now += takes;
    if (log.step_done(computed, drawn, now))
      log.report({3, 5, 61, 0, 2, 9}, 256, now);
  }

  logs all;
  request_log log;
  request_log::clock::time_point now{1h};
};

} // namespace

TEST_CASE("while steps are computed, their rates are told every ten seconds") {
  testing::log_keeper kept;
  {
    said s(kept);
    s.log.accepted(request_at(s.now), 0);
    for (int i = 0; i < 25; ++i)
      s.step(1s, 40, 8);
  }
  const auto reports = kept.messages("scheduler");
  REQUIRE(reports.size() == 2);
  for (const auto& report : reports)
    CHECK(report == "sequences: 3 computed, 5 waiting; 40.0 tok/s computed, 8.0 tok/s generated; 61 of 256 KV pages "
                    "are in use; 2 preemptions so far");
}

TEST_CASE("time in which there was nothing to compute is not counted") {
  testing::log_keeper kept;
  {
    said s(kept);
    s.log.accepted(request_at(s.now), 0);
    s.step(1s, 999, 999);
    s.now += 1h;
    s.log.accepted(request_at(s.now), 0);
    for (int i = 0; i < 10; ++i)
      s.step(1s, 40, 8);
  }
  REQUIRE(kept.messages("scheduler").size() == 1);
  CHECK_THAT(kept.messages("scheduler")[0], Catch::Contains("40.0 tok/s computed, 8.0 tok/s generated"));
}

TEST_CASE("requests that come while others are there, or soon after, and long steps, delay no report") {
  testing::log_keeper kept;
  {
    said s(kept);
    s.log.accepted(request_at(s.now), 0);
    for (int i = 0; i < 3; ++i) {
      s.step(20s, 100, 20); // streamed weights
      s.log.accepted(request_at(s.now), 1);
    }
    for (int i = 0; i < 10; ++i) {
      s.step(1s, 40, 8);
      s.log.accepted(request_at(s.now), 0);
    }
  }
  const auto reports = kept.messages("scheduler");
  REQUIRE(reports.size() == 4);
  CHECK_THAT(reports[0], Catch::Contains("5.0 tok/s computed, 1.0 tok/s generated"));
  CHECK_THAT(reports[3], Catch::Contains("40.0 tok/s computed, 8.0 tok/s generated"));
}

TEST_CASE("a request that fails is a warning, one that its client leaves is none, and all that fail are one record") {
  testing::log_keeper kept;
  {
    said s(kept, log_level::debug);
    auto r = request_at(s.now);
    r.stats.generated_tokens = 12;
    s.log.failed(r, error(errc::timed_out, "too slow"));
    s.log.failed(r, error(errc::cancelled, "wants no more"));
    s.log.all_failed(40, error(errc::device_failed, "gone"));
    s.log.all_failed(0, error(errc::device_failed, "gone"));
  }
  const auto records = kept.records();
  REQUIRE(records.size() == 3);
  CHECK(records[0].level == log_level::warning);
  CHECK(records[0].message == "request 7 failed after 12 tokens (timed_out): too slow");
  CHECK(records[1].level == log_level::debug);
  CHECK(records[2].level == log_level::error);
  CHECK(records[2].message == "requests: all 40 fail (device_failed): gone");
}

TEST_CASE("a rate that was not measured is not told") {
  testing::log_keeper kept;
  {
    said s(kept, log_level::debug);
    auto r = request_at(s.now);
    r.stats.prompt_tokens = r.stats.reused_tokens = 3;
    r.stats.generated_tokens = 1;
    s.log.finished(r);
    r.stats.reused_tokens = 1;
    r.stats.prefill_seconds = 0.5;
    r.stats.generated_tokens = 5;
    r.stats.decode_seconds = 2;
    s.log.finished(r);
  }
  CHECK(kept.messages("scheduler") ==
        std::vector<std::string>{
            "request 7 is finished (stop): 3 tokens in, 3 of them reused; 1 out",
            "request 7 is finished (stop): 3 tokens in at 4.0 tok/s, 1 of them reused; 5 out at 2.0 tok/s"});
}
