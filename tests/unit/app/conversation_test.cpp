// Conversations as text.
#include "src/app/conversation.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::app;

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
