// Stop strings beside a search through the whole text.
#include "src/sampling/stop_matcher.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

using namespace tropilla;

TEST_CASE("a stop string across pieces ends the text before it, and nothing comes after") {
  stop_matcher m({"END", "\n\n"});
  CHECK(m.push("one E") == "one ");
  CHECK(m.push("N") == "");
  CHECK(m.push("O two") == "ENO two");
  CHECK_FALSE(m.matched());
  CHECK(m.push(" \n") == " ");
  CHECK(m.push("\nmore") == "");
  CHECK(m.matched());
  CHECK(m.push("even more") == "");
}

TEST_CASE("a character is held back whole where a stop string may begin inside of it") {
  for (const std::string character : {"\xC3\x80", "\xC3\xA9", "\xF0\x9F\x90\xBF"}) {
    stop_matcher m({character.substr(character.size() - 1) + "!"});
    CHECK(m.push("a" + character) == "a");
    CHECK(m.push("b") == character + "b");
    CHECK_FALSE(m.matched());
  }
}

TEST_CASE("what was held back comes when the reply ends without a match") {
  stop_matcher m({"STOP"});
  CHECK(m.push("wait, ST") == "wait, ");
  CHECK(m.finish() == "ST");
  CHECK_FALSE(m.matched());
}

TEST_CASE("however a text is cut into pieces, what comes out is what stands before the first stop string") {
  std::mt19937 random(8);
  for (int round = 0; round < 5000; ++round) {
    const auto word = [&](std::size_t n) {
      std::string s;
      while (n-- > 0)
        s += random() % 5 == 0 ? "\xC3\xA4" : random() % 2 ? "a" : "b";
      return s;
    };
    std::vector<std::string> stops;
    for (std::size_t n = random() % 4; n > 0; --n)
      stops.push_back(word(1 + random() % 5));
    const std::string text = word(random() % 40);
    std::size_t first = std::string::npos, end = std::string::npos; // the first to be complete, then to begin
    for (const auto& s : stops)
      if (const auto at = text.find(s); at != std::string::npos)
        if (end == std::string::npos || at + s.size() < end || (at + s.size() == end && at < first)) {
          end = at + s.size();
          first = at;
        }
    stop_matcher m(stops);
    std::string got;
    for (std::size_t at = 0; at < text.size() && !m.matched();) {
      std::size_t n = std::min<std::size_t>(1 + random() % 6, text.size() - at);
      while (at + n < text.size() && (static_cast<unsigned char>(text[at + n]) & 0xC0) == 0x80)
        ++n; // whole characters go in
      const auto out = m.push(std::string_view{text}.substr(at, n));
      if (!out.empty())
        CHECK((static_cast<unsigned char>(out.front()) & 0xC0) != 0x80); // and come out
      got += out;
      at += n;
    }
    CHECK(m.matched() == (first != std::string::npos));
    if (!m.matched())
      got += m.finish();
    CHECK(got == text.substr(0, first));
  }
}
