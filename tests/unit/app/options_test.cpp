// Options from the command line, the environment and a file.
#include "app/options.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::app;

namespace {

/// What `run`'s options of a reply are after parsing.
generation_options parse(std::vector<std::string> arguments, std::map<std::string, std::string> environment = {}) {
  reply_options options;
  std::vector<std::string> words;
  const auto bind = [&](option_binder& b) {
    options.bind(b);
    b.positionals("words", words);
  };
  parse_options(bind, arguments, {"run", long_options(bind), [&](const char* name) -> const char* {
                                    const auto it = environment.find(name);
                                    return it == environment.end() ? nullptr : it->second.c_str();
                                  }});
  return options.generation;
}

/// A file of options, removed at the end.
class options_file {
public:
  explicit options_file(std::string_view text)
      : path_(std::filesystem::temp_directory_path() / ("tropilla-options-" + std::to_string(::getpid()) + ".toml")) {
    std::ofstream(path_) << text;
  }
  ~options_file() { std::filesystem::remove(path_); }
  options_file(const options_file&) = delete;
  options_file& operator=(const options_file&) = delete;
  [[nodiscard]] std::string name() const { return path_.string(); }

private:
  std::filesystem::path path_;
};

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("every sampling option reaches its field") {
  const auto o =
      parse({"--min-p", "0.1", "--typical-p", "0.2", "--repeat-penalty", "1.3", "--frequency-penalty", "-0.4",
             "--presence-penalty=0.5", "--penalty-window", "64", "--context-shift", "--context-keep", "12"});
  CHECK(o.sampling.min_p == 0.1);
  CHECK(o.sampling.typical_p == 0.2);
  CHECK(o.sampling.repetition_penalty == 1.3);
  CHECK(o.sampling.frequency_penalty == -0.4);
  CHECK(o.sampling.presence_penalty == 0.5);
  CHECK(o.sampling.penalty_window == 64);
  CHECK(o.context_shift);
  CHECK(o.context_keep == 12);
  CHECK(parse({}).stop.empty());
}

TEST_CASE("a text that stops is given once or often, and never takes the words behind it") {
  CHECK(parse({"--stop", "a", "--stop", "[b,c]", "prompt", "words"}).stop == texts{"a", "[b,c]"});
  CHECK(parse({"--stop", R"(\n\n)", "--stop=\\t\\\\n"}).stop == texts{"\n\n", "\t\\n"});
  CHECK(parse({"prompt"}, {{"TROPILLA_STOP", R"(\x41\x0a)"}}).stop == texts{"A\n"});
  CHECK(parse({"--stop", "a"}, {{"TROPILLA_STOP", "b"}}).stop == texts{"a"});
}

TEST_CASE("a file has a text or an array of them, and a command's own table wins over the top") {
  const options_file array("stop = ['\\n', \"b\"]\n[chat]\nstop = 'other'\n");
  CHECK(parse({"--config", array.name()}).stop == texts{"\n", "b"});
  const options_file table("stop = ['a', 'b']\nmin-p = 0.5\n[run]\nstop = 'c'\nmin-p = 0.25\n");
  CHECK(parse({"--config", table.name()}).stop == texts{"c"});
  CHECK(parse({"--config", table.name()}).sampling.min_p == 0.25);
  const options_file wrong("min-p = [0.5]\n");
  CHECK_THROWS_WITH(parse({"--config", wrong.name()}), Catch::Contains("min-p: expected text, a number"));
  const options_file nested("stop = [['a']]\n");
  CHECK_THROWS_WITH(parse({"--config", nested.name()}), Catch::Contains("stop: expected text, a number"));
}

TEST_CASE("a backslash that stands for nothing is refused") {
  for (const std::string text : {R"(\q)", R"(\)", R"(\x4)", R"(\xg0)", R"(\x)"})
    CHECK_THROWS_WITH(unescape(text, "--stop"), Catch::Contains("--stop must be a text in which a backslash"));
  CHECK(unescape(R"(\x00)", "--stop") == std::string(1, '\0'));
}
