// Text for terminals and tables, and ids that people write.
#include "app/ids.hpp"
#include "app/table.hpp"
#include "app/text.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <clocale>

using namespace tropilla;
using namespace tropilla::app;

TEST_CASE("invalid UTF-8 is found where it begins") {
  CHECK_FALSE(invalid_utf8_at("aé你🙂"));
  CHECK(invalid_utf8_at("a\xff") == 1);
  CHECK(invalid_utf8_at("ab\xc3") == 2);           // cut short
  CHECK(invalid_utf8_at("\xc0\xaf") == 0);         // overlong
  CHECK(invalid_utf8_at("\xed\xa0\x80") == 0);     // a surrogate
  CHECK(invalid_utf8_at("\xf4\x90\x80\x80") == 0); // above U+10FFFF
  CHECK_THROWS_WITH(require_utf8("ab\xfe", "the prompt"), Catch::Contains("the prompt"));
}

TEST_CASE("nothing that steers a terminal gets through") {
  CHECK(escape("a\x1b[2J\n\t\\\xff") == R"(a\x1b[2J\n\t\\\xff)");
  CHECK(without_controls("a\x1b[31mb\tc\nd\x07") == "a[31mb\tc\nd");
}

TEST_CASE("columns are counted and cut by whole characters") {
  std::setlocale(LC_ALL, "C.UTF-8");
  CHECK(display_width("abc") == 3);
  CHECK(display_width("é") == 1);
  CHECK(display_width("你好") == 4);
  CHECK(shorten("abcdef", 6) == "abcdef");
  CHECK(shorten("abcdefg", 6) == "abc...");
  CHECK(display_width(shorten("你好你好你好", 7)) <= 7);
}

TEST_CASE("the nearest word is found, and none when all are far") {
  const std::vector<std::string> words{"temp", "template", "trace"};
  CHECK(closest("tepm", words) == "temp");
  CHECK(closest("trcae", words) == "trace");
  CHECK(closest("zebra", words).empty());
}

TEST_CASE("a table lines up, and quotes what its format needs") {
  const table t{{{"name"}, {"n", true}}, {{"a", "1"}, {"b,\"c\"|", "234"}}};
  CHECK(t.aligned() == "name      n\na         1\nb,\"c\"|  234\n");
  CHECK(t.csv() == "name,n\na,1\n\"b,\"\"c\"\"|\",234\n");
  CHECK_THAT(t.markdown(), Catch::Contains(R"(\|)"));
}

TEST_CASE("ids are numbers with any separators, or a JSON array") {
  CHECK(parse_ids("1 2,3\n4") == std::vector<token_id>{1, 2, 3, 4});
  CHECK(parse_ids(" [5, 6] ") == std::vector<token_id>{5, 6});
  CHECK(parse_ids("").empty());
  for (const auto* bad : {"1 x", "[1,", "[1.5]", "99999999999", "-1", "[\"1\"]"})
    CHECK_THROWS_AS(parse_ids(bad), error);
}
