// Levels as they are typed; records as lines and as JSON.
#include "app/log_output.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::app;

namespace {

using levels = std::vector<std::pair<std::string, log_level>>;

levels components_of(const log_options& o) {
  levels out;
  for (const auto& c : o.components)
    out.emplace_back(c.component, c.level);
  return out;
}

/// 2001-02-03 04:05:06.007008 UTC.
log_record record_of(std::string_view message, log_level level = log_level::info) {
  return {std::chrono::system_clock::time_point(std::chrono::microseconds(981'173'106'007'008)), level, "loader",
          message};
}

} // namespace

TEST_CASE("levels are typed alone, by component, or both in any order") {
  CHECK(parse_log_levels("debug").level == log_level::debug);
  CHECK(parse_log_levels("debug").components.empty());
  const auto both = parse_log_levels("loader=trace,warning,cache=off");
  CHECK(both.level == log_level::warning);
  CHECK(components_of(both) == levels{{"loader", log_level::trace}, {"cache", log_level::off}});
  // One who asks for a component alone wants no other.
  CHECK(parse_log_levels("scheduler=debug").level == log_level::off);
  CHECK_FALSE(both.sink);
}

TEST_CASE("a level or component that there is not is refused with those that there are") {
  const auto refused = [](std::string_view text) {
    try {
      (void)parse_log_levels(text);
    } catch (const error& e) {
      CHECK(e.code() == errc::invalid_argument);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(refused("inof"), Catch::Contains(R"(no log level "inof" (did you mean "info"?))") &&
                                  Catch::Contains("trace, debug, info, warning, error, off"));
  CHECK_THAT(refused("info,laoder=debug"),
             Catch::Contains(R"("laoder" (did you mean "loader"?))") && Catch::Contains("runtime, supervisor"));
  CHECK_THAT(refused("loader=warn"), Catch::Contains(R"(did you mean "warning"?)"));
  for (const auto* text :
       {"", ",", "info,", "INFO", " info", "loader=", "=debug", "loader=debug=info", "info;debug", "loader", "\x1b[2J"})
    CHECK_THAT(refused(text), Catch::StartsWith("there is no") && !Catch::Contains("\x1b"));
}

TEST_CASE("a line has time, level, component and sentence, and nothing that steers a terminal or begins a line") {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  CHECK(log_line(record_of("layer 3: 1.5 MiB"), {}) == "2001-02-03 04:05:06.007 info    loader: layer 3: 1.5 MiB");
  CHECK(log_line(record_of("a\x1b[2J\nb\xff", log_level::warning), {}) ==
        R"(2001-02-03 04:05:06.007 warning loader: a\x1b[2J\nb\xff)");
}

TEST_CASE("an object is valid JSON in one line, whatever the sentence has in it") {
  using nlohmann::json;
  const auto plain = json::parse(log_json(record_of("1.5 MiB", log_level::error)));
  CHECK(plain == json{{"time", "2001-02-03T04:05:06.007008Z"},
                      {"level", "error"},
                      {"component", "loader"},
                      {"message", "1.5 MiB"}});
  constexpr char letters[] = "quote \" backslash \\ line\nend\r tab\t bell\x07 nul\0 del\x7f é 你🙂";
  const std::string hard(letters, sizeof letters - 1);
  const auto line = log_json(record_of(hard));
  CHECK(line.find('\n') == std::string::npos);
  CHECK(json::parse(line).at("message") == hard);
  for (std::string text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "ok \x80 ok"}) {
    const auto object = log_json(record_of(text));
    CHECK(json::accept(object));
    CHECK_THAT(json::parse(object).at("message").get<std::string>(), Catch::Contains("\xef\xbf\xbd"));
  }
}

TEST_CASE("each of the options alone asks for a log, of level info") {
  const auto place = std::make_shared<status_line>();
  CHECK_FALSE(log_settings{}.open(place).sink);
  const auto json = log_settings{.levels = {}, .json = true, .file = {}}.open(place);
  CHECK(json.sink);
  CHECK(json.level == log_level::info);
  const log_settings levels{.levels = parse_log_levels("error"), .json = false, .file = {}};
  CHECK(levels.open(place).level == log_level::error);
  CHECK_FALSE(levels.shows_warnings());
  CHECK(log_settings{.levels = {}, .json = true, .file = {}}.shows_warnings());
  CHECK_FALSE(log_settings{}.shows_warnings());
  CHECK(log_settings{.levels = parse_log_levels("off,runtime=warning"), .json = false, .file = {}}.shows_warnings());
}

TEST_CASE("a file is appended to, and one that can't be opened is an error") {
  const auto path = std::filesystem::temp_directory_path() / ("tropilla-log-" + std::to_string(::getpid()));
  std::ofstream(path) << "before\n";
  const auto place = std::make_shared<status_line>();
  {
    const log_settings settings{.levels = {}, .json = true, .file = path.string()};
    CHECK_FALSE(settings.shows_warnings());
    const auto log = settings.open(place);
    log.sink(record_of("one"));
    log.sink(record_of("two"));
  }
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  CHECK_THAT(text.str(), Catch::StartsWith("before\n{") && Catch::Contains("one\"}\n{") && Catch::EndsWith("two\"}\n"));
  try {
    (void)log_settings{.levels = {}, .json = false, .file = "/absent/log"}.open(place);
    FAIL("it was opened");
  } catch (const error& e) {
    CHECK(e.code() == errc::io_error);
    CHECK_THAT(e.what(), Catch::Contains("/absent/log"));
  }
}
