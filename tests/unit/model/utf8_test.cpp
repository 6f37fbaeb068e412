// The Unicode Standard's own examples, and every way to cut them into pieces.
#include "src/model/tokenizer.hpp"
#include "src/model/utf8.hpp"

#include <catch2/catch.hpp>
#include <random>
#include <utility>
#include <vector>

using namespace tropilla;
using namespace std::string_literals;

namespace {

const std::string R = "\uFFFD"; // NOLINT(readability-identifier-naming): as tables of such cases have it

std::string all_at_once(std::string_view bytes) {
  utf8_stream stream;
  std::string text(stream.push(bytes));
  text += stream.finish();
  return text;
}

} // namespace

TEST_CASE("broken UTF-8 becomes one U+FFFD per maximal subpart") {
  // The Unicode Standard 15, section 3.9, tables 3-8 to 3-11, then the ends of the ranges.
  const std::vector<std::pair<std::string, std::string>> examples{
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", R + R + R + R + R + R + R + R + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", R + R + R + R + R + R + R + R + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", R + R + R + R + R + "A" + R + R + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", R + R + R + R + "A"},
      {"\xC1\x80", R + R},
      {"\xC2\x80", "\xC2\x80"},
      {"\xDF\xBF", "\xDF\xBF"},
      {"\xE0\x9F\xBF", R + R + R},
      {"\xE0\xA0\x80", "\xE0\xA0\x80"},
      {"\xED\x9F\xBF", "\xED\x9F\xBF"},
      {"\xEE\x80\x80", "\xEE\x80\x80"},
      {"\xEF\xBF\xBF", "\xEF\xBF\xBF"},
      {"\xF0\x8F\xBF\xBF", R + R + R + R},
      {"\xF0\x90\x80\x80", "\xF0\x90\x80\x80"},
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
      {"\xF4\x90\x80\x80", R + R + R + R},
      {"\xF5\x80", R + R},
      {"\0\x7F"s, "\0\x7F"s},
      {"", ""},
      {"\xF0\x9F\x98", R}, // unfinished at the end
      {"\xE2", R},
      {"a\xC3", "a" + R},
  };
  for (const auto& [bytes, text] : examples) {
    CAPTURE(utf8::quoted(bytes));
    CHECK(all_at_once(bytes) == text);
    CHECK(utf8::is_valid(bytes) == (bytes == text));
  }
}

TEST_CASE("a stream says the same however its bytes arrive, and only whole characters") {
  std::mt19937 draw(3); // NOLINT: the same bytes each time
  for (int round = 0; round < 300; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) {
      const std::vector<std::string> parts{"a",        "é",    "€",    "😀",    "\xF0\x9F",
                                           "\xE2\x82", "\xC3", "\x80", "\xFF", "\xED\xA0"};
      bytes += parts[draw() % parts.size()];
    }
    utf8_stream stream;
    std::string text;
    for (std::size_t i = 0; i < bytes.size();) {
      const std::size_t n = std::min<std::size_t>(draw() % 4, bytes.size() - i);
      const std::string_view got = stream.push(std::string_view{bytes}.substr(i, n));
      REQUIRE(utf8::is_valid(got));
      text += got;
      i += n;
    }
    text += stream.finish();
    CAPTURE(utf8::quoted(bytes));
    REQUIRE(text == all_at_once(bytes));
  }
}

TEST_CASE("a character that spans tokens comes out with its last byte") {
  utf8_stream stream;
  CHECK(stream.push("\xF0").empty());
  CHECK(stream.push("\x9F").empty());
  CHECK(stream.push("\x98").empty());
  CHECK(stream.push("\x80!") == "😀!");
  CHECK(stream.finish().empty());
  CHECK(stream.push("ab") == "ab");
  CHECK(stream.push("\xC3").empty());
  CHECK(stream.finish() == R);
  CHECK(stream.finish().empty());
}

TEST_CASE("masking keeps the length and every valid character") {
  std::string storage;
  const std::string valid = "naïve 😀 long enough for whole words of eight bytes";
  CHECK(utf8::mask_invalid(valid, '?', storage).data() == valid.data());
  CHECK(utf8::mask_invalid("a\xFF"
                           "b\xE2\x82 €\xF0\x9F",
                           '?', storage) == "a?b?? €??");
  CHECK(utf8::mask_invalid("", '?', storage).empty());
}

TEST_CASE("a quoted token prints on one line") {
  CHECK(utf8::quoted("a\n\"\xFF€") == "\"a\\x0A\\x22\\xFF€\"");
  CHECK(utf8::quoted(std::string(100, 'x')) == "\"" + std::string(40, 'x') + "...\"");
}
