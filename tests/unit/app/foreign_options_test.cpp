// What people of llama.cpp and ollama type.
#include "app/command.hpp"
#include "app/foreign_options.hpp"
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

struct parsed {
  model_options model;
  reply_options reply;
  std::string prompt, system;
  std::vector<std::string> words;
  parsed_options said;
};

/// What options like those of `run` are after parsing.
parsed parse(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& environment = {},
             const std::string& command = "run") {
  parsed p;
  const auto bind = [&](option_binder& b) {
    b.text({"-p,--prompt", "TEXT", "the prompt"}, p.prompt);
    b.text({"--system", "TEXT", "the system message"}, p.system);
    p.reply.bind(b);
    p.model.bind(b);
    b.positionals("words", p.words);
  };
  p.said = parse_options(bind, arguments, {command, long_options(bind), [&](const char* name) -> const char* {
                                             const auto it = environment.find(name);
                                             return it == environment.end() ? nullptr : it->second.c_str();
                                           }});
  return p;
}

std::string sentence_of(const std::vector<std::string>& arguments, const std::string& command = "run") {
  try {
    static_cast<void>(parse(arguments, {}, command));
    return "";
  } catch (const error& e) {
    return e.what();
  }
}

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("what llama.cpp and ollama call an option is taken for it") {
  CHECK(parse({"-c", "2048"}).model.config.context == 2048);
  CHECK(parse({"-c2048"}).model.config.context == 2048);
  CHECK(parse({"--ctx-size=2048"}).model.config.context == 2048);
  CHECK(parse({"--ctx_size", "2048"}).model.config.context == 2048);
  CHECK(parse({"--n-predict", "7"}).reply.generation.max_tokens == 7);
  CHECK(parse({"--predict", "7"}).reply.generation.max_tokens == 7);
  CHECK(parse({"--temperature", "0.5"}).reply.generation.sampling.temperature == 0.5);
  CHECK(parse({"--repetition-penalty", "1.5"}).reply.generation.sampling.repetition_penalty == 1.5);
  CHECK(parse({"--top_k", "7"}).reply.generation.sampling.top_k == 7);
  CHECK(parse({"--frequency_penalty", "-0.5"}).reply.generation.sampling.frequency_penalty == -0.5);
  CHECK(parse({"-s", "9"}).reply.generation.sampling.seed == 9);
  CHECK(parse({"-s9"}).reply.generation.sampling.seed == 9);
  CHECK(parse({"-sys", "Be brief."}).system == "Be brief.");
  CHECK(parse({"--system-prompt", "Be brief."}).system == "Be brief.");
  CHECK(parse({"-r", "a", "--reverse-prompt", "b"}).reply.generation.stop == texts{"a", "b"});
  CHECK(parse({"-np", "4"}).model.config.sequences == 4);
  CHECK(parse({"-np4"}).model.config.sequences == 4);
  CHECK(parse({"-ctk", "q8_0", "-ctv", "q8_0"}).model.config.kv_type == "q8_0");
  CHECK(parse({"--chat-template", "chatml"}).model.config.chat_template == "chatml");
}

TEST_CASE("the names of others work in the environment and in files, behind ours") {
  CHECK(parse({}, {{"TROPILLA_CTX_SIZE", "512"}}).model.config.context == 512);
  CHECK(parse({}, {{"TROPILLA_CTX_SIZE", "512"}, {"TROPILLA_CTX", "256"}}).model.config.context == 256);
  CHECK(parse({"-c", "64"}, {{"TROPILLA_CTX_SIZE", "512"}}).model.config.context == 64);
  const std::string file =
      (std::filesystem::temp_directory_path() / ("tropilla-foreign-" + std::to_string(::getpid()) + ".toml")).string();
  std::ofstream(file) << "n-predict = 5\ntop_k = 6\n[run]\nctx_size = 128\n";
  const parsed p = parse({"--config", file});
  CHECK(p.reply.generation.max_tokens == 5);
  CHECK(p.reply.generation.sampling.top_k == 6);
  CHECK(p.model.config.context == 128);
  std::ofstream(file) << "n-gpu-layers = 5\n";
  CHECK_THROWS_WITH(parse({"--config", file}), Catch::Contains(":1: n-gpu-layers changes nothing: --budget cuda:0"));
  std::filesystem::remove(file);
}

TEST_CASE("what changes nothing here is taken with its value, and a notice says why") {
  const parsed p = parse({"-ngl", "99", "--prompt", "hi", "-fa", "on", "--no-mmap", "-b", "512", "-t", "2"});
  CHECK(p.prompt == "hi");
  CHECK(p.words.empty());
  CHECK(p.model.config.threads == 2);
  REQUIRE(p.said.notices.size() == 4);
  CHECK_THAT(p.said.notices[0], Catch::StartsWith("-ngl changes nothing: --budget cuda:0"));
  CHECK_THAT(p.said.notices[1], Catch::StartsWith("-fa "));
  CHECK_THAT(p.said.notices[2], Catch::StartsWith("--no-mmap ") && Catch::Contains("--io"));
  CHECK(parse({"-ngl", "-1", "word"}).words == texts{"word"});
  CHECK(parse({"-ngl99", "word"}).words == texts{"word"});
  CHECK(parse({"--n-gpu-layers=99", "word"}).words == texts{"word"});
  CHECK(parse({"-ngl", "-c", "99"}).model.config.context == 99); // forgotten values take no option with them
  CHECK(parse({"-fa", "word"}).words == texts{"word"});
  CHECK(parse({"-cnv", "word"}, {}, "chat").words == texts{"word"});
}

TEST_CASE("what tropilla does not do is explained") {
  CHECK_THAT(sentence_of({"-hf", "ggml-org/model"}), Catch::StartsWith("-hf ") &&
                                                         Catch::Contains("downloads nothing") &&
                                                         Catch::Contains(".cache/tropilla/models"));
  CHECK_THAT(sentence_of({"--hf-repo=x"}), Catch::StartsWith("--hf-repo is not supported"));
  CHECK_THAT(sentence_of({"-cnv"}), Catch::Contains("tropilla chat"));
  CHECK_THAT(sentence_of({"-i"}), Catch::Contains("tropilla chat"));
  CHECK_THAT(sentence_of({"-st"}, "chat"), Catch::Contains("tropilla run"));
  CHECK_THAT(sentence_of({"--lora", "x"}), Catch::Contains("merge"));
  CHECK_THAT(sentence_of({"--mirostat", "2"}), Catch::Contains("--min-p"));
}

TEST_CASE("options that nobody knows are met with the nearest that there is") {
  for (const std::string typed : {"--temprature", "--temprature=1", "--tempreature"})
    CHECK_THAT(sentence_of({typed, "1"}), Catch::Contains("did you mean --temperature?"));
  CHECK_THAT(sentence_of({"--tmp=0.5"}), Catch::Contains("did you mean --temp?"));
  CHECK_THAT(sentence_of({"--max-token", "5"}), Catch::Contains("did you mean --max-tokens?"));
  for (const std::string typed : {"-max-tokens", "-max_tokens", "-model", "-prompt", "-temp", "-threads"})
    CHECK_THAT(sentence_of({typed, "5"}), Catch::Contains("did you mean --"));
  CHECK_THAT(sentence_of({"-max-tokens", "5"}), Catch::Contains("did you mean --max-tokens?"));
  CHECK_THAT(sentence_of({"--devices", "2"}),
             Catch::Contains("\"--devices\"; --device is not supported: --budget names"));
  CHECK_THAT(sentence_of({"-ctx-size", "5"}), Catch::Contains("did you mean --ctx?"));
  CHECK_THAT(sentence_of({"-tempreture", "5"}), Catch::Contains("did you mean --temperature?"));
  CHECK_THROWS_AS(parse({"-help"}), help_requested);
}

TEST_CASE("values and words that look like options of others are left alone") {
  CHECK(parse({"-pngl"}).prompt == "ngl");
  CHECK(parse({"-pa-long-word"}).prompt == "a-long-word");
  CHECK(parse({"-mmodel.gguf"}).model.config.model == "model.gguf");
  CHECK(parse({"--", "-ngl", "99"}).words == texts{"-ngl", "99"});
  CHECK(parse({"-t4"}).model.config.threads == 4);
  CHECK(parse({"--system=-hf"}).system == "-hf");
  // A command's own letters come first: bench's -p and -r are no prompt and no text that stops.
  std::string prompts;
  std::size_t repetitions = 0;
  const auto bind = [&](option_binder& b) {
    b.text({"-p,--n-prompt", "N", "tokens"}, prompts);
    b.count({"-r,--repetitions", "N", "of each"}, repetitions);
  };
  parse_options(bind, texts{"-p", "5", "-r", "3"}, {"bench", long_options(bind), [](const char*) { return nullptr; }});
  CHECK(prompts == "5");
  CHECK(repetitions == 3);
}

TEST_CASE("every name of others that stands for an option stands for one that some command has") {
  const auto known = all_option_names();
  for (const command& c : all_commands())
    for (const std::string& key : long_options(c.bind))
      for (const std::string& other : foreign_names(std::vector<std::string>{key}, c.name)) {
        INFO(c.name << " --" << other);
        const auto own = long_options(c.bind);
        CHECK(std::find(own.begin(), own.end(), other) == own.end());
        const foreign_option* entry = find_foreign_option("--" + other, c.name);
        REQUIRE(entry != nullptr);
        CHECK(entry->key == key);
      }
  CHECK(std::find(known.begin(), known.end(), "ctx") != known.end());
}

TEST_CASE("numbers that are -1 elsewhere are what they are there, and other negative ones are refused") {
  CHECK(parse({"-n", "-1"}).reply.generation.max_tokens == std::numeric_limits<std::size_t>::max());
  CHECK(parse({"--n-predict=-1"}).reply.generation.max_tokens == std::numeric_limits<std::size_t>::max());
  CHECK(parse({}, {{"TROPILLA_MAX_TOKENS", "-1"}}).reply.generation.max_tokens ==
        std::numeric_limits<std::size_t>::max());
  CHECK(parse({"--top-k", "-1"}).reply.generation.sampling.top_k == 0);
  CHECK_THAT(sentence_of({"-n", "-2"}),
             Catch::Contains("--max-tokens must be a whole number from 1 to 2147483647, or -1 (until the context is "
                             "full), not \"-2\""));
  CHECK_THAT(sentence_of({"--seed", "-2"}), Catch::Contains("or -1 (one is drawn)"));
  CHECK_THAT(sentence_of({"-c", "-1"}), Catch::Contains("--ctx must be a whole number from 1 to"));
}

TEST_CASE("a seed of -1 is drawn, another every time") {
  const auto first = parse({"--seed", "-1"}).reply;
  const auto second = parse({"-s", "-1"}).reply;
  CHECK(first.seed_drawn);
  CHECK(second.seed_drawn);
  CHECK(first.generation.sampling.seed != second.generation.sampling.seed); // once in four billion they are
  CHECK_FALSE(parse({"--seed", "1"}).reply.seed_drawn);
}
