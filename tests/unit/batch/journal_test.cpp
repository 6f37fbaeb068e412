// What an output says about what is left to do.
#include "src/batch/journal.hpp"

#include "src/batch/record.hpp"
#include "tests/unit/batch/files.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

using namespace tropilla;
using testing::scratch_file;

namespace {

std::string input_text(std::size_t lines) {
  std::string text;
  for (std::size_t i = 1; i <= lines; ++i)
    text += "{\"prompt\": \"" + std::to_string(i) + "\"}\n";
  return text;
}

std::string record_of(scratch_file& input, std::size_t line) {
  line_reader reader(input.descriptor(), input.name());
  while (auto l = reader.wait())
    if (l->number == line)
      return failure_record(parse_batch_request(*l, {}), errc::timed_out, "too slow");
  FAIL("no such line");
  return {};
}

} // namespace

TEST_CASE("a set of lines keeps ranges") {
  std::mt19937 random(3);
  std::vector<std::size_t> order(300);
  std::iota(order.begin(), order.end(), std::size_t{1});
  std::ranges::shuffle(order, random);
  line_set lines;
  std::set<std::size_t> wanted;
  for (const auto line : order) {
    CHECK(lines.insert(line));
    CHECK_FALSE(lines.insert(line));
    wanted.insert(line);
    if (wanted.size() % 20 == 0)
      for (std::size_t i = 0; i <= 301; ++i)
        REQUIRE(lines.contains(i) == wanted.contains(i));
  }
  CHECK(lines.ranges() == 1);
  CHECK(lines.largest() == 300);
}

TEST_CASE("lines that end out of order within a window take a range per gap") {
  std::mt19937 random(5);
  line_set lines;
  std::vector<std::size_t> flight;
  std::size_t next = 1;
  std::size_t most = 0;
  while (next < 20000) {
    while (flight.size() < 32)
      flight.push_back(next++);
    const auto i = random() % flight.size();
    CHECK(lines.insert(flight[i]));
    flight.erase(flight.begin() + static_cast<std::ptrdiff_t>(i));
    most = std::max(most, lines.ranges());
  }
  CHECK(most <= 33);
}

TEST_CASE("a journal cuts a torn last line off and knows what is done") {
  scratch_file input(input_text(5));
  scratch_file output;
  const std::string whole = record_of(input, 4) + record_of(input, 2);
  const std::string torn = record_of(input, 1);
  for (std::size_t cut = 1; cut < torn.size(); cut += 7) {
    output.write(whole + torn.substr(0, cut));
    {
      batch_journal journal(output.name(), false);
      CHECK(journal.finished().records == 2);
      CHECK(journal.finished().lines.contains(4));
      CHECK_FALSE(journal.finished().lines.contains(1));
      CHECK_NOTHROW(require_same_input(input.descriptor(), "in", journal.finished(), "out"));
      journal.append(torn);
    }
    CHECK(output.read() == whole + torn);
  }
  batch_journal anew(output.name(), true);
  CHECK(anew.finished().records == 0);
  CHECK(output.read().empty());
}

TEST_CASE("a journal refuses what it did not write, and a second writer") {
  scratch_file input(input_text(3));
  scratch_file output("some notes\n");
  using Catch::Contains;
  CHECK_THROWS_WITH(batch_journal(output.name(), false), Contains("line 1 of") && Contains("--restart"));
  output.write("{\"line\": 0, \"input\": \"1\"}\n");
  CHECK_THROWS_WITH(batch_journal(output.name(), false), Contains("no \"line\""));
  output.write("{\"line\": 1, \"input\": \"no\"}\n");
  CHECK_THROWS_WITH(batch_journal(output.name(), false), Contains("fingerprint"));
  output.write(record_of(input, 2) + record_of(input, 2));
  CHECK_THROWS_WITH(batch_journal(output.name(), false), Contains("two records of line 2"));
  batch_journal first(output.name(), true);
  CHECK_THROWS_WITH(batch_journal(output.name(), false), Contains("another process is writing"));
}

TEST_CASE("another input is noticed, a longer one and other line ends are not another") {
  scratch_file input(input_text(5));
  scratch_file output(record_of(input, 3) + record_of(input, 1));
  batch_journal journal(output.name(), false);
  const auto check = [&](const std::string& text) {
    input.write(text);
    return require_same_input(input.descriptor(), "in", journal.finished(), "out");
  };
  CHECK_NOTHROW(check(input_text(9)));
  std::string dos;
  for (const char c : input_text(5))
    dos += c == '\n' ? "\r\n" : std::string(1, c);
  CHECK_NOTHROW(check(dos));
  CHECK_THROWS_WITH(check(input_text(2)), Catch::Contains("other lines than those of in"));
  CHECK_THROWS(check("\n" + input_text(5)));
  std::string swapped = input_text(5);
  std::swap(swapped[12], swapped[swapped.find('3')]);
  CHECK_THROWS(check(swapped));
}

TEST_CASE("lines without a record are left, before the last that has one or behind it, and blank ones are not") {
  scratch_file input(input_text(3));
  const auto left = [&](std::initializer_list<std::size_t> finished, const std::string& text) {
    input.write(input_text(3));
    std::string records;
    for (const std::size_t line : finished)
      records += record_of(input, line);
    scratch_file output(records);
    batch_journal journal(output.name(), false);
    input.write(text);
    return require_same_input(input.descriptor(), "in", journal.finished(), "out");
  };
  CHECK(left({1, 3}, input_text(3)));
  CHECK(left({1, 2}, input_text(3)));
  CHECK(left({3, 1, 2}, input_text(3) + "\n\n{}\n"));
  CHECK_FALSE(left({3, 1, 2}, input_text(3)));
  CHECK_FALSE(left({3, 1, 2}, input_text(3) + "\n  \n"));
}

TEST_CASE("a result names its line, and is JSON whatever the model writes") {
  batch_request r;
  r.line = 12;
  r.fingerprint = 0xABC;
  batch_output o;
  o.add({.id = 5, .text = "\xff\"\n"});
  const auto record = result_record(r, {o}, {}, {});
  CHECK(record.ends_with('\n'));
  CHECK(std::ranges::count(record, '\n') == 1);
  CHECK(read_record(record).line == 12);
  CHECK(read_record(record).fingerprint == 0xABC);
}
