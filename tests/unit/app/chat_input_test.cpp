// What lines make which message, and which texts are commands.
#include "app/chat_input.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::app;

namespace {

/// The messages that some lines make, and what was left unfinished at their end.
std::vector<std::string> messages_of(const std::vector<std::string>& lines) {
  line_joiner joiner;
  std::vector<std::string> messages;
  for (const auto& line : lines)
    if (auto message = joiner.take(line))
      messages.push_back(*message);
  if (joiner.unfinished())
    messages.push_back("unfinished: " + joiner.rest());
  return messages;
}

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("a line is a message, without its carriage return") {
  CHECK(messages_of({"one", "two\r", ""}) == texts{"one", "two", ""});
}

TEST_CASE("a backslash at the end goes on in the next line") {
  CHECK(messages_of({"one\\", "two\\", "three", "four"}) == texts{"one\ntwo\nthree", "four"});
  CHECK(messages_of({"one \\ two"}) == texts{"one \\ two"});
  CHECK(messages_of({"one\\"}) == texts{"unfinished: one"});
}

TEST_CASE("three quotes begin and end a block, in which nothing else has a meaning") {
  const std::string fence = R"(""")";
  CHECK(messages_of({fence, "a\\", "", "/quit", fence, "b"}) == texts{"a\\\n\n/quit", "b"});
  CHECK(messages_of({fence + "a", "b" + fence}) == texts{"a\nb"});
  CHECK(messages_of({fence + "a" + fence}) == texts{"a"});
  CHECK(messages_of({fence + fence}) == texts{""});
  CHECK(messages_of({"a" + fence, "b"}) == texts{"a" + fence, "b"}); // not at its beginning
  CHECK(messages_of({fence, "a"}) == texts{"unfinished: a"});
}

TEST_CASE("an unfinished message can be forgotten") {
  line_joiner joiner;
  CHECK_FALSE(joiner.take(R"("""a)"));
  CHECK(joiner.unfinished());
  joiner.clear();
  CHECK_FALSE(joiner.unfinished());
  CHECK(joiner.take("b") == "b");
}

TEST_CASE("a slash begins a command, two begin a message") {
  CHECK(parse_chat_input("hello /quit").command == chat_command::message);
  CHECK(parse_chat_input("//quit").text == "/quit");
  CHECK(parse_chat_input("//quit").command == chat_command::message);
  CHECK(parse_chat_input("/quit").command == chat_command::quit);
  CHECK(parse_chat_input("/exit").command == chat_command::quit);
  CHECK(parse_chat_input("/?").command == chat_command::help);
  const auto system = parse_chat_input("/system \t You are brief. \n");
  CHECK(system.command == chat_command::system);
  CHECK(system.text == "You are brief.");
}

TEST_CASE("an unknown command is an error that names the nearest") {
  try {
    (void)parse_chat_input("/sistem x");
    FAIL("no error");
  } catch (const error& e) {
    CHECK(e.code() == errc::invalid_argument);
    CHECK_THAT(e.what(), Catch::Contains("/sistem") && Catch::Contains("did you mean /system?"));
  }
  CHECK_THROWS_WITH(parse_chat_input("/\x1b[2J"), !Catch::Contains("\x1b"));
}

TEST_CASE("memory and budget are commands, the latter with a size") {
  CHECK(parse_chat_input("/memory").command == chat_command::memory);
  CHECK(parse_chat_input("/budget").text.empty());
  const auto budget = parse_chat_input("/budget  1.5 GiB ");
  CHECK(budget.command == chat_command::budget);
  CHECK(budget.text == "1.5 GiB");
}

TEST_CASE("while a reply streams some commands are for now and other lines wait in order") {
  typeahead ahead;
  CHECK_FALSE(ahead.take("hello"));
  CHECK(ahead.take("/memory")->command == chat_command::memory);
  CHECK(ahead.take("/stats\r")->command == chat_command::stats);
  CHECK(ahead.take("/budget 300MiB")->text == "300MiB");
  CHECK(ahead.take("/quit")->command == chat_command::quit);
  CHECK_FALSE(ahead.take("/reset"));
  CHECK_FALSE(ahead.take("/set temp 0"));
  CHECK_FALSE(ahead.take("//memory"));
  CHECK(ahead.next() == "hello");
  CHECK(ahead.next() == "/reset");
  CHECK(ahead.next() == "/set temp 0");
  CHECK(ahead.next() == "//memory");
  CHECK_FALSE(ahead.next());
}

TEST_CASE("inside of a long message that waits nothing is a command") {
  typeahead ahead;
  for (const char* line : {R"(""")", "/quit", R"(""")", "a\\", "/quit"})
    CHECK_FALSE(ahead.take(line));
  CHECK(ahead.take("/quit"));
  CHECK(ahead.next() == R"(""")");
  CHECK_FALSE(ahead.take("b")); // a reply to what went is streaming: the rest still waits
  CHECK_FALSE(ahead.take(R"("""/quit""")"));
  CHECK(ahead.take("/quit"));
}

TEST_CASE("a long message that began before the reply's end goes on at the prompt") {
  typeahead ahead;
  CHECK_FALSE(ahead.take(R"(""")"));
  CHECK(ahead.next() == R"(""")"); // whose end is typed at the prompt
  CHECK(ahead.take("/memory"));    // during the next reply
}

TEST_CASE("a mistyped command does not wait") {
  typeahead ahead;
  CHECK_THROWS_AS(ahead.take("/memroy"), error);
  CHECK_FALSE(ahead.next());
}

TEST_CASE("pasted lines are a message, whatever is in them") {
  CHECK(messages_of({"/quit\n\"\"\"\n\\", "one"}) == texts{"/quit\n\"\"\"\n\\", "one"});
  CHECK(messages_of({"\"\"\"", "a\nb", "\"\"\""}) == texts{"a\nb"}); // inside of a block they are lines of it
  CHECK(messages_of({"a\\", "b\nc"}) == texts{"a\nb\nc"});
  typeahead ahead;
  CHECK_FALSE(ahead.take("/quit\nnow"));
  CHECK(ahead.take("/quit"));
  CHECK(ahead.next() == "/quit\nnow");
}

TEST_CASE("what others call a command is known") {
  for (const auto& [line, command] : {std::pair{"/clear", chat_command::clear},
                                      {"/reset", chat_command::clear},
                                      {"/regen", chat_command::retry},
                                      {"/bye", chat_command::quit}})
    CHECK(parse_chat_input(line).command == command);
  CHECK(parse_chat_input("/set temp 0.8").text == "temp 0.8");
  CHECK(parse_chat_input("/model a b.gguf").text == "a b.gguf");
}

TEST_CASE("commands and settings are completed from their beginnings") {
  const texts settings{"temp", "temperature", "top-k"};
  CHECK(complete_chat_line("/s", settings) == texts{"/system", "/set", "/stats", "/save"});
  CHECK(complete_chat_line("/quit", settings) == texts{"/quit"});
  CHECK(complete_chat_line("/set te", settings) == texts{"/set temp", "/set temperature"});
  CHECK(complete_chat_line("/set ", settings) == texts{"/set temp", "/set temperature", "/set top-k"});
  CHECK(complete_chat_line("/set top-k 4", settings).empty());
  CHECK(complete_chat_line("s", settings).empty());
  CHECK(complete_chat_line("", settings).empty());
  CHECK(complete_chat_line("/x", settings).empty());
}
