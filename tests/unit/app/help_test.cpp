// --help and what is bound.
#include "app/command.hpp"

#include "app/text.hpp"
#include "tests/unit/app/lines.hpp"

#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <regex>
#include <sstream>

using namespace tropilla::app;
using tropilla::testing::lines_of;

namespace {

/// What the help says of an option: from its line to the next option's or an empty one, in one line.
/// A flag and its opposite share a line: --[no-]context-shift.
std::string spelled(const std::string& name) {
  return "(\\[no-\\])?" + (name.starts_with("no-") ? "(?:no-)?" + name.substr(3) : name);
}

std::string explanation_of(const std::vector<std::string>& lines, const std::string& name) {
  const std::regex own("^  (-[A-Za-z], |    )--" + spelled(name) + "( [^ ]+)?(  +(.*))?$");
  std::smatch found;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!std::regex_match(lines[i], found, own))
      continue;
    std::string text = found[5];
    for (++i; i < lines.size() && lines[i].starts_with("          "); ++i)
      text += " " + lines[i].substr(lines[i].find_first_not_of(' '));
    return text;
  }
  return "";
}

const command& named(const std::vector<command>& commands, std::string_view name) {
  return *std::find_if(commands.begin(), commands.end(), [&](const command& c) { return c.name == name; });
}

} // namespace

TEST_CASE("every option has a line of its own in --help, with an explanation") {
  for (const command& c : all_commands()) {
    auto names = long_options(c.bind);
    names.insert(names.end(), {"config", "help"});
    for (const std::size_t columns : {80, 100}) {
      const auto lines = lines_of(help_text(c, columns));
      for (const std::string& name : names) {
        INFO(c.name << " --" << name << " in " << columns << " columns");
        CHECK(explanation_of(lines, name).size() > 5);
      }
    }
  }
}

TEST_CASE("help fits its columns, and ends with an example that begins as a person would type it") {
  for (const command& c : all_commands())
    for (const std::size_t columns : {80, 100}) {
      const std::string text = help_text(c, columns);
      for (const std::string& line : lines_of(text)) {
        INFO(c.name << ": " << line);
        CHECK(display_width(line) <= columns);
        CHECK_FALSE(line.ends_with(' '));
      }
      const std::size_t example = text.find("\nExample:\n  tropilla ");
      REQUIRE(example != std::string::npos);
      CHECK(text.find(fmt::format("tropilla {}", c.name), example) != std::string::npos);
    }
}

TEST_CASE("help shows the defaults that a command has") {
  const auto commands = all_commands();
  const auto says = [&](std::string_view command, const std::string& option) {
    return explanation_of(lines_of(help_text(named(commands, command), 100)), option);
  };
  CHECK_THAT(says("run", "temp"), Catch::EndsWith("(default: 0)"));
  CHECK_THAT(says("run", "max-tokens"), Catch::EndsWith("(default: 256)"));
  CHECK_THAT(says("chat", "temp"), Catch::EndsWith("(default: 0.6)"));
  CHECK_THAT(says("chat", "top-p"), Catch::EndsWith("(default: 0.9)"));
  CHECK_THAT(says("chat", "max-tokens"), Catch::EndsWith("(default: 1024)"));
  CHECK_THAT(says("run", "parallel"), Catch::EndsWith("(default: as many as --outputs)"));
  CHECK_THAT(says("batch", "parallel"), Catch::EndsWith("(default: 16)"));
  CHECK_THAT(says("bench", "ctx"), Catch::EndsWith("(default: what the longest test needs)"));
  CHECK_THAT(says("plan", "kv-type"), Catch::EndsWith("f16, bf16 or q8_0 (default: f16)"));
}

TEST_CASE("text is broken between words, and lines that begin with a blank stay") {
  CHECK(wrap("aa bb cc", 5) == "aa bb\ncc");
  CHECK(wrap("aa bb cc", 7, 2) == "  aa bb\n  cc");
  CHECK(wrap("a-very-long-word b", 4) == "a-very-long-word\nb");
  CHECK(wrap("one\n  two three\nfour five", 6) == "one\n  two three\nfour\nfive");
  CHECK(wrap("", 10, 3).empty());
}
