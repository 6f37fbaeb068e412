// Levels by component, records and sinks that misbehave.
#include "src/log/log.hpp"
#include "tests/support/log_keeper.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace tropilla;
using tropilla::testing::log_keeper;

namespace {

struct counts_formatting {
  int* times;
};

} // namespace

template <>
struct fmt::formatter<counts_formatting> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  auto format(const counts_formatting& value, fmt::format_context& context) const {
    ++*value.times;
    return fmt::format_to(context.out(), "formatted");
  }
};

TEST_CASE("a record has its component, level, time and sentence") {
  log_keeper kept;
  const auto before = std::chrono::system_clock::now();
  {
    const logs all({.sink = kept.sink()});
    all.of(log_component::loader).info("{}: {} in {:.2f} s", "layer 3", human_bytes{111'778'202}, 0.5);
  }
  REQUIRE(kept.records().size() == 1);
  CHECK(kept.records()[0].level == log_level::info);
  CHECK(kept.records()[0].component == "loader");
  CHECK(kept.records()[0].message == "layer 3: 106.6 MiB in 0.50 s");
  CHECK(kept.records()[0].time >= before);
  CHECK(kept.records()[0].time <= std::chrono::system_clock::now());
}

TEST_CASE("a component logs from its own level on, the others from the common one") {
  log_keeper kept;
  {
    const logs all(
        {.sink = kept.sink(),
         .level = log_level::warning,
         .components = {{"loader", log_level::error}, {"loader", log_level::trace}, {"cache", log_level::off}}});
    for (const auto level : {log_level::trace, log_level::debug, log_level::info, log_level::warning, log_level::error})
      for (const auto c : {log_component::runtime, log_component::loader, log_component::cache})
        all.of(c).log(level, "{}", to_string(level));
  }
  std::vector<std::string> runtime, loader;
  for (const auto& r : kept.records())
    (r.component == "runtime" ? runtime : loader).push_back(r.message);
  CHECK(runtime == std::vector<std::string>{"warning", "error"});
  CHECK(loader == std::vector<std::string>{"trace", "debug", "info", "warning", "error"});
}

TEST_CASE("every component has the name that it is configured by") {
  const auto names = log_components();
  for (std::size_t i = 0; i < names.size(); ++i) {
    log_keeper kept;
    {
      const logs all(
          {.sink = kept.sink(), .level = log_level::off, .components = {{std::string(names[i]), log_level::info}}});
      for (std::size_t c = 0; c < names.size(); ++c)
        all.of(static_cast<log_component>(c)).info("here");
    }
    REQUIRE(kept.records().size() == 1);
    CHECK(kept.records()[0].component == names[i]);
  }
  CHECK(names[static_cast<std::size_t>(log_component::runtime)] == "runtime");
  CHECK(names[static_cast<std::size_t>(log_component::cache)] == "cache");
}

TEST_CASE("a component that there is not is refused with those that there are") {
  try {
    const logs all({.sink = [](const log_record&) {}, .components = {{"lodaer", log_level::info}}});
    FAIL("it was accepted");
  } catch (const error& e) {
    CHECK(e.code() == errc::invalid_argument);
    CHECK_THAT(e.what(), Catch::Contains("\"lodaer\"") && Catch::Contains("runtime") && Catch::Contains("loader"));
  }
}

TEST_CASE("levels have names, and other words are none") {
  for (const auto level :
       {log_level::trace, log_level::debug, log_level::info, log_level::warning, log_level::error, log_level::off})
    CHECK(log_level_from_name(to_string(level)) == level);
  for (const auto* name : {"", "warn", "INFO", "info ", "5"})
    CHECK_FALSE(log_level_from_name(name));
}

TEST_CASE("without a sink, and where all is off, nothing is wanted") {
  const logs none(log_options{});
  CHECK_FALSE(none.of(log_component::runtime).wants(log_level::error));
  const logs off({.sink = [](const log_record&) { FAIL("called"); }, .level = log_level::off});
  CHECK_FALSE(off.of(log_component::runtime).wants(log_level::error));
  off.of(log_component::runtime).error("nobody reads this");
  CHECK_FALSE(logger().wants(log_level::error));
}

TEST_CASE("what is not wanted is not formatted") {
  log_keeper kept;
  int times = 0;
  {
    const logs all({.sink = kept.sink()});
    const auto log = all.of(log_component::compute);
    log.debug("{}", counts_formatting{&times});
    CHECK(times == 0);
    log.info("{}", counts_formatting{&times});
    CHECK(times == 1);
  }
  REQUIRE(kept.records().size() == 1);
  CHECK(kept.records()[0].message == "formatted");
}

TEST_CASE("a sink that throws loses that record and no other, whatever it throws") {
  log_keeper kept;
  int calls = 0;
  {
    const logs all({.sink = [&, keep = kept.sink()](const log_record& r) {
      switch (calls++) {
      case 0:
        throw std::runtime_error("full");
      case 1:
        throw 3;
      default:
        keep(r);
      }
    }});
    for (int i = 0; i < 3; ++i)
      all.of(log_component::runtime).info("{}", i);
  }
  CHECK(calls == 3);
  REQUIRE(kept.records().size() == 1);
  CHECK(kept.records()[0].message == "2");
}

TEST_CASE("nobody waits for a slow sink, and what is lost is counted") {
  log_keeper kept;
  std::promise<void> go_on;
  constexpr std::size_t many = 5000;
  bool first = true;
  {
    const logs all({.sink = [&, keep = kept.sink()](const log_record& r) {
      if (std::exchange(first, false))
        go_on.get_future().wait();
      keep(r);
    }});
    const auto log = all.of(log_component::scheduler);
    for (std::size_t i = 0; i < many; ++i) // returns although the sink stands still
      log.info("{}", i);
    go_on.set_value();
  }
  std::size_t lost = 0, told = 0;
  for (const auto& r : kept.records()) {
    if (r.level == log_level::warning)
      lost += std::stoul(r.message);
    else
      ++told;
  }
  CHECK(lost > 0);
  CHECK(told + lost == many);
  CHECK(kept.records().back().message == std::to_string(many - 1)); // the newest are kept
}

TEST_CASE("records of many threads come one after the other, each thread's in its order") {
  log_keeper kept;
  constexpr int threads = 4, each = 200; // fewer than the queue has room for
  {
    const logs all({.sink = kept.sink()});
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&all, t] {
        const auto log = all.of(static_cast<log_component>(t));
        for (int i = 0; i < each; ++i)
          log.info("{}", i);
      });
    for (auto& t : running)
      t.join();
  }
  CHECK(kept.records().size() == threads * each);
  for (int t = 0; t < threads; ++t) {
    int next = 0;
    for (const auto& r : kept.records())
      if (r.component == log_components()[static_cast<std::size_t>(t)])
        CHECK(r.message == std::to_string(next++));
    CHECK(next == each);
  }
}

TEST_CASE("a logger that outlives its logs says nothing") {
  logger left;
  int calls = 0;
  {
    const logs all({.sink = [&](const log_record&) { ++calls; }});
    left = all.of(log_component::runtime);
  }
  left.error("too late");
  CHECK(calls == 0);
}

TEST_CASE("a sink may cause records itself") {
  log_keeper kept;
  logger again;
  std::promise<void> third;
  {
    const logs all({.sink = [&, keep = kept.sink()](const log_record& r) {
      keep(r);
      if (kept.records().size() < 3)
        again.info("{} and again", r.message);
      else
        third.set_value();
    }});
    again = all.of(log_component::runtime);
    again.info("once");
    third.get_future().wait();
  }
  REQUIRE(kept.records().size() == 3);
  CHECK(kept.records()[2].message == "once and again and again");
}
