// /set, against the options of a command.
#include "app/settings.hpp"

#include "app/dialogue.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <regex>

using namespace tropilla::app;

namespace {

/// The options of a conversation, and a person who sets them.
struct setter {
  chat_options options, fresh;

  changeable_options changeable() {
    return {.now = [this](option_binder& b) { options.bind_settings(b); },
            .by_default = [this](option_binder& b) { fresh.bind_settings(b); },
            .fixed = [this](option_binder& b) { fresh.model.bind(b); }};
  }
  std::string set(std::string_view text) { return change_setting(changeable(), split_setting(text)); }
  [[nodiscard]] const tropilla::sampling_options& sampling() const { return options.reply.generation.sampling; }
};

} // namespace

TEST_CASE("a setting has a name and a value, in ollama's words too") {
  for (const char* text : {"top-k 4", "  top_k   4", "--top-k 4", "parameter top_k 4", "parameter\ttop_k\t4"}) {
    const setting_words words = split_setting(text);
    CHECK(words.name == "top-k");
    CHECK(words.value == "4");
  }
  CHECK(split_setting("stop a b").value == "a b");
  CHECK(split_setting("").name.empty());
  CHECK(split_setting("temp").value.empty());
  CHECK(split_setting("parameter").name.empty());
}

TEST_CASE("settings reach their fields, by the names of llama.cpp and ollama too") {
  setter person;
  CHECK(person.set("temperature 0.8") == "temp 0.8 (default 0.6)");
  CHECK(person.sampling().temperature == 0.8);
  person.set("top_k 40");
  CHECK(person.sampling().top_k == 40);
  person.set("parameter num_predict 12");
  CHECK(person.options.reply.generation.max_tokens == 12);
  person.set("stop \\n");
  CHECK(person.options.reply.generation.stop == std::vector<std::string>{"\n"});
  CHECK(person.set("seed 7") == "seed 7 (default 0)");
  CHECK(person.sampling().seed == 7);
  CHECK(person.sampling().top_p == 0.9); // what nobody set stays
}

TEST_CASE("flags are turned on and off") {
  setter person;
  CHECK(person.set("verbose") == "stats on (default off)");
  CHECK(person.options.stats);
  CHECK(person.set("stats off") == "stats off");
  CHECK_FALSE(person.options.stats);
  person.set("context-shift off");
  CHECK_FALSE(person.options.reply.generation.context_shift);
  person.set("no-context-shift off");
  CHECK(person.options.reply.generation.context_shift);
  person.set("no_context_shift");
  CHECK_FALSE(person.options.reply.generation.context_shift);
  CHECK_THROWS_WITH(person.set("stats perhaps"), "--stats must be on or off, not \"perhaps\"");
}

TEST_CASE("default puts back what holds when nobody says") {
  setter person;
  person.set("temp 0");
  CHECK(person.set("temp default") == "temp 0.6");
  person.set("stop a");
  CHECK(person.set("stop default") == "stop none");
  CHECK(person.options.reply.generation.stop.empty());
  person.set("ignore-eos");
  person.set("ignore-eos default");
  CHECK_FALSE(person.options.reply.generation.ignore_eos);
  person.set("max-tokens -1");
  CHECK(person.set("max-tokens") == "max-tokens -1 (default 1024)");
  person.set("max-tokens default");
  CHECK(person.options.reply.generation.max_tokens == 1024);
}

TEST_CASE("values are refused with the command line's sentences, and nothing changes") {
  setter person;
  CHECK_THROWS_WITH(person.set("temp hot"), "--temp must be a number from 0 to 100, not \"hot\"");
  CHECK_THROWS_WITH(person.set("top_p 2"), Catch::Contains("--top-p must be a number"));
  CHECK_THROWS_WITH(person.set("temp nan"), Catch::Contains("--temp must be"));
  CHECK_THROWS_WITH(person.set("stop \\q"), Catch::Contains("--stop must be a text in which a backslash"));
  CHECK(person.sampling().temperature == 0.6);
  CHECK(person.sampling().top_p == 0.9);
}

TEST_CASE("a name that is no setting gets a sentence") {
  setter person;
  CHECK_THROWS_WITH(person.set("tempe 1"), Catch::Contains("did you mean temp?"));
  CHECK_THROWS_WITH(person.set("num_ctx 8192"), Catch::Contains("--ctx counts when the program starts"));
  CHECK_THROWS_WITH(person.set("mirostat 2"), Catch::Contains("mirostat is not supported"));
  CHECK_THROWS_WITH(person.set("wordwrap"), Catch::Contains("knows no option wordwrap"));
  CHECK_THROWS_AS(person.set("\x1b[2J 1"), tropilla::error);
}

TEST_CASE("the table marks what differs from the default") {
  setter person;
  person.set("temp 0.8");
  const std::string table = settings_table(person.changeable());
  for (const char* row : {"\ntemp +0\\.8 \\* +0\\.6\n", "\ntop-p +0\\.9 +0\\.9\n", "\nstop +none +none\n"})
    CHECK(std::regex_search(table, std::regex(row)));
}

TEST_CASE("the names of all settings are known, others' behind our own") {
  const setter person;
  chat_options options;
  const auto names = setting_names([&](option_binder& b) { options.bind_settings(b); });
  const auto place = [&](const char* name) { return std::find(names.begin(), names.end(), name); };
  CHECK(place("temp") < place("temperature"));
  CHECK(place("temperature") != names.end());
  CHECK(place("model") == names.end());
}
