// docs/command-line.md and configs/example.toml against the options that are declared.
#include "app/command.hpp"
#include "tests/unit/app/lines.hpp"
#include "tests/unit/app/option_table.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <unistd.h>

using namespace tropilla::app;
using tropilla::testing::lines_of;

namespace {

const std::filesystem::path root = std::filesystem::path(TROPILLA_TEST_DATA) / "../..";
const std::filesystem::path page_file = root / "docs/command-line.md";

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path);
  REQUIRE(in);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

const command& named(const std::vector<command>& commands, const std::string& name) {
  const auto found = std::find_if(commands.begin(), commands.end(), [&](const command& c) { return c.name == name; });
  INFO("a table of docs/command-line.md is of the command \"" << name << "\"");
  REQUIRE(found != commands.end());
  return *found;
}

/// The page with every table made anew. A table stands between `<!-- options of COMMAND: HEADING, --option -->` and
/// `<!-- end of options -->`.
std::string with_tables(const std::string& page) {
  const std::regex begin("<!-- options of (\\S+): (.+) -->");
  const std::regex comma(", ");
  const auto commands = all_commands();
  std::string made;
  bool inside = false;
  for (const std::string& line : lines_of(page)) {
    if (line == "<!-- end of options -->")
      inside = false;
    if (inside)
      continue;
    made += line + "\n";
    std::smatch found;
    if (!std::regex_match(line, found, begin))
      continue;
    inside = true;
    const std::string list = found[2];
    const std::vector<std::string> selected(std::sregex_token_iterator(list.begin(), list.end(), comma, -1), {});
    made += "\n" + option_table(named(commands, found[1]).bind, selected) + "\n";
  }
  INFO("docs/command-line.md: a table of options has no <!-- end of options -->");
  REQUIRE_FALSE(inside);
  return made;
}

} // namespace

TEST_CASE("the tables of options in docs/command-line.md say what the declarations say") {
  const std::string page = read(page_file);
  const std::string made = with_tables(page);
  if (const char* update = std::getenv("TROPILLA_UPDATE_DOCS"); update && *update) {
    std::ofstream(page_file) << made;
    SUCCEED("written anew");
    return;
  }
  const auto are = lines_of(page), should_be = lines_of(made);
  const auto [is, expected] = std::mismatch(are.begin(), are.end(), should_be.begin(), should_be.end());
  INFO("docs/command-line.md:"
       << is - are.begin() + 1
       << " differs; TROPILLA_UPDATE_DOCS=1 build/release/bin/test_app \"the tables of options*\" "
       << "writes them anew");
  CHECK((is == are.end() ? "" : *is) == (expected == should_be.end() ? "" : *expected));
  CHECK((page == made)); // which is too long to be shown
}

TEST_CASE(
    "every option of every command has a row with its default in docs/command-line.md, made from its declaration") {
  const auto lines = lines_of(with_tables(read(page_file)));
  for (const command& c : all_commands())
    for (const std::string& row : lines_of(option_table(c.bind))) {
      INFO(
          c.name << " has no such row in docs/command-line.md: name the option, or its heading in --help, in a comment "
                 << "like <!-- options of " << c.name << ": HEADING, --option -->\n"
                 << row);
      CHECK(std::find(lines.begin(), lines.end(), row) != lines.end());
    }
  const auto is_begin = [](const std::string& line) { return line.starts_with("<!-- options of "); };
  const auto is_header = [](const std::string& line) { return line.starts_with("| Option |"); };
  CHECK(std::count_if(lines.begin(), lines.end(), is_header) == std::count_if(lines.begin(), lines.end(), is_begin));
}

TEST_CASE("a table of options has the rows that it names, in that order") {
  double temperature = 0.5;
  bool raw = false;
  std::size_t top = 0;
  std::string type, file;
  const option_declaration bind = [&](option_binder& b) {
    b.group("Prompt");
    b.flag({"--raw,!--no-raw", "", "without a template"}, raw);
    b.text({"-f,--file", "FILE|-", "text of FILE"}, file);
    b.group("Sampling");
    b.number({"-t,--temp", "X", "needs --raw; X as ever", "", " ([why](a.md))"}, temperature, {0, 1});
    b.count({"--top", "N", "keep N, not NN", "as --raw has it"}, top);
    b.choice({"--type", "TYPE", "how"}, type, {"a", "b", "c"});
  };
  const std::string header = "| Option | Default | |\n| --- | --- | --- |\n";
  const std::string sampling = "| `-t`, `--temp X` | 0.5 | needs `--raw`; `X` as ever ([why](a.md)) |\n"
                               "| `--top N` | as `--raw` has it | keep `N`, not NN |\n"
                               "| `--type TYPE` | none | how: `a`, `b` or `c` |\n";
  const std::string raw_row = "| `--raw` | off | without a template |\n";
  const std::string file_row = "| `-f`, `--file FILE\\|-` | none | text of FILE |\n";
  CHECK(option_table(bind, std::vector<std::string>{"Sampling", "--raw"}) == header + sampling + raw_row);
  CHECK_THAT(option_table(bind), Catch::StartsWith(header + raw_row + file_row + sampling + "| `--config "));
  CHECK_THAT(option_table(bind), Catch::EndsWith("| `-h`, `--help` |  | this text |\n"));
  CHECK_THROWS_WITH(option_table(bind, std::vector<std::string>{"--no-raw"}), Catch::Contains("\"--no-raw\""));

  raw = true;
  type = file = "b";
  const std::string changed = option_table(bind);
  for (const char* row : {"| `--raw` | on |", "| `-f`, `--file FILE\\|-` | `b` |", "| `--type TYPE` | `b` |"})
    CHECK_THAT(changed, Catch::Contains(row));
}

TEST_CASE("configs/example.toml has keys and values that its commands take, those in comments too") {
  const std::string example =
      std::regex_replace(read(root / "configs/example.toml"), std::regex("(^|\n)# ([a-z-]+ = )"), "$1$2");
  CHECK_THAT(example, Catch::Contains("\nmodel = ")); // a comment in the file
  const auto file =
      std::filesystem::temp_directory_path() / ("tropilla-example-" + std::to_string(::getpid()) + ".toml");
  std::ofstream(file) << example;
  const auto commands = all_commands();
  for (const command& c : commands) {
    INFO(c.name);
    const option_context context{std::string(c.name), all_option_names(), [](const char*) { return nullptr; }};
    CHECK_NOTHROW(parse_options(c.bind, std::vector<std::string>{"--config", file.string()}, context));
  }
  std::filesystem::remove(file);
}
