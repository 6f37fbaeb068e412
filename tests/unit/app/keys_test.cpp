// Pasted text and unseen lines, however their bytes are cut.
#include "app/keys.hpp"

#include <catch2/catch.hpp>
#include <vector>

using namespace tropilla::app;

namespace {

/// The lines that some bytes make, "closed" where they end it, and behind them what an editor would get.
std::vector<std::string> lines_of(std::string_view bytes) {
  unseen_line line;
  std::vector<std::string> lines;
  for (const char byte : bytes)
    if (const auto event = line.take(byte); event == unseen_line::event::line)
      lines.push_back(line.take_line());
    else if (event == unseen_line::event::closed)
      lines.emplace_back("closed");
  lines.push_back(line.take_keys());
  return lines;
}

std::string pasted(std::string_view bytes) {
  pasted_text paste;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (paste.take(bytes[i]))
      return i + 1 == bytes.size() ? paste.text() : "ended before its end";
  return "did not end";
}

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("a paste ends with its mark and nothing else") {
  CHECK(pasted("one\x1b[201~") == "one");
  CHECK(pasted("\x1b[201~").empty());
  CHECK(pasted("a\x1b[201\x1b[200~\x1b\x1b[201~") == "a[201[200~"); // other sequences lose what steers a terminal
  CHECK(pasted("one\x1b[201") == "did not end");
}

TEST_CASE("a paste keeps its lines and tabs, and loses control characters and what is not UTF-8") {
  CHECK(pasted("a\rb\r\nc\nd\r\x1b[201~") == "a\nb\nc\nd\n");
  CHECK(pasted("\ta\x07\x7f\xc2\x9b"
               "b\x1b[201~") == "\tab");
  CHECK(pasted(std::string_view("a\0b\x1b[201~", 9)) == "ab");
  CHECK(pasted("\xe7\x8e\x8b\xff\xe7\x8e\x1b[201~") == "\xe7\x8e\x8b\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a paste of megabytes is one text") {
  const std::string text(std::size_t{4} << 20, 'x');
  CHECK(pasted(text + "\x1b[201~") == text);
}

TEST_CASE("a long paste has a name") {
  CHECK(name_of_long_paste("short", 80, 24).empty());
  CHECK(name_of_long_paste(std::string(12, '\n'), 80, 24).empty());
  CHECK(name_of_long_paste(std::string(13, '\n'), 80, 24) == "[pasted 13 lines]");
  CHECK(name_of_long_paste(std::string(13, '\n') + "x", 80, 24) == "[pasted 14 lines]");
  CHECK(name_of_long_paste(std::string(1040, 'x'), 80, 24) == "[pasted 1040 bytes]");
}

TEST_CASE("unseen lines end with Enter in either mode of a terminal") {
  CHECK(lines_of("one\rtwo\n\r") == texts{"one", "two", "", ""});
}

TEST_CASE("keys that take something back are obeyed in an unseen line") {
  CHECK(lines_of("on\xc3\xa9\x7f"
                 "e\b\bne\r") == texts{"one", ""});
  CHECK(lines_of("\x7f\x7f"
                 "a\r") == texts{"a", ""});
  CHECK(lines_of("one\x15two\r") == texts{"two", ""});
  CHECK(lines_of("one two \x17three\x17\x17\r") == texts{"", ""});
  CHECK(lines_of("one two \x17three\r") == texts{"one three", ""});
}

TEST_CASE("other keys have no part in an unseen line") {
  CHECK(lines_of("a\x1b[A\x1b[1;5Cb\x1bOPc\x1bxd\te\x01\x0c"
                 "f\r") == texts{"abcdef", ""});
}

TEST_CASE("Ctrl-D closes an empty unseen line only") {
  CHECK(lines_of("\x04") == texts{"closed", ""});
  CHECK(lines_of("a\x04\r") == texts{"a", ""});
}

TEST_CASE("a paste is a part of an unseen line") {
  CHECK(lines_of("say \x1b[200~a\rb\x1b[201~!\r") == texts{"say a\nb!", ""});
  CHECK(lines_of("\x1b[200~a\rb\x1b[201~\x7f\x7f\r") == texts{"a", ""});
}

TEST_CASE("what has no end yet is given to an editor as keys, wherever it was cut") {
  CHECK(lines_of("one\rtw") == texts{"one", "\x1b[200~tw\x1b[201~"});
  // Another line goes on with the keys where this one stopped.
  const std::string all = "a\x1b[Ab\x1b[200~c\rd\x1b[201~e\xc3\xa9\r";
  for (std::size_t cut = 0; cut < all.size(); ++cut) {
    const auto before = lines_of(all.substr(0, cut));
    REQUIRE(before.size() == 1);
    CHECK(lines_of(before.front() + all.substr(cut)) == texts{"abc\nde\xc3\xa9", ""});
  }
}
