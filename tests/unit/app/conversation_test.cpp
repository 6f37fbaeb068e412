// Conversations as text.
#include "app/conversation.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::app;

namespace {

/// A token for each byte of a message, and one for each message.
std::size_t tokens_of(const std::vector<chat_message>& messages) {
  std::size_t tokens = 0;
  for (const auto& m : messages)
    tokens += m.content.size() + 1;
  return tokens;
}

/// The texts of messages, one after another.
std::string joined(const std::vector<chat_message>& messages) {
  std::string text;
  for (const auto& m : messages)
    text += m.content + " ";
  return text;
}

/// Exchanges of 8 tokens: "a01" and its answer "A01".
conversation talk(std::size_t exchanges, const std::string& system = "") {
  conversation c = conversation::with_system(system);
  for (std::size_t i = 0; i < exchanges; ++i) {
    const std::string number = std::string(i < 10 ? "0" : "") + std::to_string(i);
    c.ask("a" + number);
    c.answer("A" + number);
  }
  return c;
}

} // namespace

TEST_CASE("exchanges are answered again and taken back") {
  conversation c = talk(2, "be");
  c.reopen();
  CHECK(joined(c.told()) == "be a00 A00 a01 ");
  c.answer("B");
  CHECK(c.undo() == "a01");
  CHECK(joined(c.all()) == "be a00 A00 ");
  CHECK_FALSE(c.empty());
  CHECK(c.undo() == "a00");
  CHECK(c.empty());
  CHECK(c.system() == "be");
  CHECK(conversation::with_system("").all().empty());
  CHECK(conversation().empty());
}

TEST_CASE("a conversation that fits stays whole") {
  conversation c = talk(4, "be"); // 35 tokens
  CHECK(c.make_room(64, 29, tokens_of) == 0);
  CHECK(c.told().size() == 9);
}

TEST_CASE("the oldest exchanges go until a quarter of the context is free, and the system message stays") {
  conversation c = talk(7, "be"); // 59 tokens
  c.ask("new");                   // 63
  CHECK(c.make_room(64, 2, tokens_of) == 4);
  CHECK(joined(c.told()) == "be a02 A02 a03 A03 a04 A04 a05 A05 a06 A06 new ");
  CHECK(c.all().size() == 16);
  c.answer("NEW");
  c.ask("one");
  CHECK(c.make_room(64, 2, tokens_of) == 0); // there is room for a few turns now
  c.ask(std::string(20, 'x'));
  CHECK(c.make_room(64, 2, tokens_of) == 8);
  CHECK(joined(c.told()).starts_with("be a06 A06 new NEW one xx"));
}

TEST_CASE("a message that has room only alone makes all others go") {
  conversation c = talk(3, "be");
  c.ask(std::string(58, 'x'));
  CHECK(c.make_room(64, 16, tokens_of) == 6);
  CHECK(c.told().size() == 2);
}

TEST_CASE("a message that never fits is refused with the numbers, and nothing changes") {
  conversation c = talk(3, "be");
  c.ask(std::string(64, 'x'));
  CHECK_THROWS_WITH(c.make_room(64, 16, tokens_of), Catch::Contains("prompt of 68 tokens with the system message") &&
                                                        Catch::Contains("holds 64") && Catch::Contains("--ctx 69"));
  CHECK(c.told().size() == 8);
  conversation alone = conversation::with_system("");
  alone.ask(std::string(64, 'x'));
  CHECK_THROWS_WITH(alone.make_room(64, 16, tokens_of), Catch::Contains("prompt of 65 tokens, and"));
}

TEST_CASE("what was left out has room again when the last exchange is taken back") {
  conversation c = talk(3);
  c.ask(std::string(50, 'x'));
  CHECK(c.make_room(64, 2, tokens_of) == 6);
  c.undo();
  CHECK(c.told().size() == 6);
}

TEST_CASE("messages come back from JSON as they were") {
  const std::vector<chat_message> said{{"system", "Be \"brief\"."}, {"user", "é\n\t\\"}, {"assistant", ""}};
  const auto back = messages_from_json(as_json(said), "x");
  REQUIRE(back.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(back[i].role == said[i].role);
    CHECK(back[i].content == said[i].content);
  }
  CHECK(messages_from_json("[]", "x").empty());
  CHECK(as_markdown(said) == "**system**\n\nBe \"brief\".\n\n**user**\n\n\xc3\xa9\n\t\\\n\n**assistant**\n\n\n");
}

TEST_CASE("whatever else is no conversation") {
  for (const char* text : {"", "{}", "[1]", "[{}]", R"([{"role": "user"}])", R"([{"role": 1, "content": "a"}])",
                           R"([{"role": "tool", "content": "a"}])", "[", "\xff",
                           R"([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}])"})
    CHECK_THROWS_WITH(messages_from_json(text, "talk"), Catch::Contains("talk holds no conversation"));
}
