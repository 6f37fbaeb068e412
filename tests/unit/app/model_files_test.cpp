// Finding models in folders that look like those of other programs.
#include "app/model_files.hpp"

#include "src/model/synth.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::app;
namespace fs = std::filesystem;

namespace {

/// A folder of its own, removed at the end.
class scratch {
public:
  scratch() {
    std::string name = (fs::temp_directory_path() / "tropilla-models-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder_ = name;
  }
  ~scratch() { fs::remove_all(folder_); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;

  [[nodiscard]] const fs::path& folder() const { return folder_; }
  fs::path file(const fs::path& name, std::string_view content = "no model") const {
    fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  void link(const fs::path& name, const fs::path& target) const {
    fs::create_directories((folder_ / name).parent_path());
    fs::create_symlink(target, folder_ / name);
  }
  [[nodiscard]] std::vector<model_place> place(const std::string& owner = "tropilla") const {
    return {{owner, folder_}};
  }

private:
  fs::path folder_;
};

std::vector<std::string> names(const found_models& found) {
  std::vector<std::string> out;
  for (const model_file& m : found.models)
    out.push_back(m.name);
  return out;
}

template <class F>
std::string sentence_of(F f) {
  try {
    static_cast<void>(f());
    return "";
  } catch (const error& e) {
    return e.what();
  }
}

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("a search finds GGUF files in folders of folders, sorted, and nothing else") {
  const scratch s;
  s.file("b/org/B.Q4_0.gguf");
  s.file("A.gguf");
  s.file("notes.txt");
  s.file(".partial-1/half.gguf");
  s.file(".hidden.gguf");
  fs::create_directories(s.folder() / "folder.gguf");
  REQUIRE(::mkfifo((s.folder() / "pipe.gguf").c_str(), 0600) == 0);
  s.link("dangling.gguf", "nowhere.gguf");
  const auto found = find_models(s.place());
  CHECK(names(found) == texts{"A", "B.Q4_0"});
  CHECK(found.left_out.empty());
  CHECK(find_models({{"tropilla", s.folder() / "absent"}}).left_out.empty());
}

TEST_CASE("a file with several links is one model, and so are the parts of a split one") {
  const scratch s;
  s.file("hub/models--o--m/blobs/abc");
  s.link("hub/models--o--m/snapshots/1/m.gguf", "../../blobs/abc");
  s.link("hub/models--o--m/snapshots/2/m.gguf", "../../blobs/abc");
  s.link("circle", ".");
  for (int part = 1; part <= 3; ++part)
    s.file(fmt::format("big-0000{}-of-00003.gguf", part));
  s.file("odd-00004-of-00003.gguf"); // no part of anything
  const auto found = find_models(s.place());
  CHECK(names(found) == texts{"big", "m", "odd-00004-of-00003"});
  CHECK(found.models[0].parts == 3);
  CHECK(found.models[0].path.filename() == "big-00001-of-00003.gguf");
}

TEST_CASE("ollama's manifests name its models, and bad ones are told of") {
  const scratch s;
  const std::string text = R"({"layers": [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:11"},
    {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:22"}]})";
  s.file("manifests/registry.ollama.ai/library/llama3.2/1b", text);
  s.file("manifests/registry.ollama.ai/library/broken/latest", "{");
  s.file("manifests/registry.ollama.ai/library/outside/latest",
         R"({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../x"}]})");
  s.file("blobs/sha256-11");
  s.file("blobs/sha256-22");
  const auto found = find_models(s.place("ollama"));
  CHECK(names(found) == texts{"llama3.2:1b"});
  CHECK(found.models.front().path == s.folder() / "blobs" / "sha256-22");
  REQUIRE(found.left_out.size() == 1);
  CHECK_THAT(found.left_out.front(), Catch::Contains("broken/latest: no manifest"));
}

TEST_CASE("a search ends at its limits and says what it left out") {
  const scratch s;
  for (int i = 0; i < 30; ++i)
    s.file(fmt::format("{:02}.gguf", i));
  s.file("1/2/3/4/deep.gguf");
  const auto few = find_models(s.place(), {.depth = 8, .entries = 10'000, .models = 5});
  CHECK(few.models.size() == 5);
  REQUIRE(few.left_out.size() == 1);
  CHECK_THAT(few.left_out.front(), Catch::Contains("more than 5 models"));
  const auto brief = find_models(s.place(), {.depth = 8, .entries = 10, .models = 1000});
  CHECK(brief.models.size() <= 10);
  REQUIRE(brief.left_out.size() == 1);
  CHECK_THAT(brief.left_out.front(), Catch::Contains("more than 10 files and folders"));
  const auto shallow = find_models(s.place(), {.depth = 2, .entries = 10'000, .models = 1000});
  CHECK(shallow.models.size() == 30);
  REQUIRE(shallow.left_out.size() == 1);
  CHECK_THAT(shallow.left_out.front(), Catch::Contains("1/2: folders 2 deep"));
}

TEST_CASE("the option -m takes a path that exists, a name in full, or a part of one name") {
  const scratch s;
  const auto llama = s.file("Llama-3.2-1B-Instruct.Q4_K_M.gguf");
  const auto base = s.file("Llama-3.2-1B.gguf");
  const auto small = s.file("x/SmolLM2.gguf");
  const auto places = s.place();
  CHECK(find_model(small.string(), places) == small);
  CHECK(find_model("Llama-3.2-1B.gguf", places) == base);
  CHECK(find_model("Llama-3.2-1B", places) == base); // in full, although it is a part of another
  CHECK(find_model("smol", places) == small);
  CHECK(find_model("instruct", places) == llama);
  CHECK_THAT(sentence_of([&] { return find_model("llama", places); }),
             Catch::Equals("\"llama\" is the name of 2 models: Llama-3.2-1B, Llama-3.2-1B-Instruct.Q4_K_M; name one in "
                           "full, or its path"));
  CHECK_THAT(sentence_of([&] { return find_model("smolm2", places); }), Catch::Contains("did you mean SmolLM2?"));
  CHECK_THAT(sentence_of([&] { return find_model("none.gguf", places); }),
             Catch::Contains("can't read none.gguf: No such file or directory"));
  const auto twin = s.file("y/SmolLM2.gguf");
  CHECK_THAT(sentence_of([&] { return find_model("smollm2", places); }),
             Catch::Contains(small.string()) && Catch::Contains(twin.string()));
}

TEST_CASE("without -m, the only model in tropilla's folder is taken, and said to be") {
  const scratch ours, others;
  others.file("other.gguf");
  const std::vector<model_place> places{{"tropilla", ours.folder()}, {"LM Studio", others.folder()}};
  std::string said;
  const auto note = [&](std::string_view sentence) { said = sentence; };
  CHECK_THAT(sentence_of([&] { return default_model(places, note); }),
             Catch::StartsWith("no model: name one with -m FILE") && Catch::Contains("scripts/model.sh"));
  const auto only = ours.file("one.gguf");
  CHECK(default_model(places, note) == only);
  CHECK(said == fmt::format("no -m: using one of {}", ours.folder().string()));
  ours.file("two.gguf");
  CHECK_THAT(sentence_of([&] { return default_model(places, note); }),
             Catch::Contains("has 2: one, two; name one with -m"));
}

TEST_CASE("a header says what a model is, and what is broken is said and no more") {
  const scratch s;
  write_synthetic_model(s.folder() / "mini.gguf", {.shape = "mini", .type = tensor_type::q8_0, .seed = 1}, {});
  s.file("broken.gguf", "GGUF and then nothing");
  const auto found = find_models(s.place());
  REQUIRE(names(found) == texts{"broken", "mini"});
  const model_header broken = read_header(found.models[0]);
  CHECK_FALSE(broken.problem.empty());
  CHECK(broken.bytes == 21);
  const model_header mini = read_header(found.models[1]);
  CHECK(mini.problem.empty());
  CHECK(mini.architecture == "llama");
  CHECK(mini.type == "Q8_0");
  CHECK(mini.parameters > 100'000);
  CHECK(mini.bytes == fs::file_size(found.models[1].path));
}
